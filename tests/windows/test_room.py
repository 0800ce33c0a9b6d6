"""More behaviours than a prompt can name are refused by windowing, not after the conversations are made."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.windows.room import INSTRUCTION, check_room, least_tokens

# venue categories, as Foursquare's, of which logs had 482 to 2,040
NAMES = [f"{first} {second} {number}" for number in range(50) for first in ("Coffee", "Sushi", "Vegan", "Thai")
         for second in ("Shop", "Bar", "Place")]


def test_the_bound_counts_words_and_what_stands_between_names():
    assert least_tokens([]) == INSTRUCTION
    assert least_tokens(["Gaming"]) == INSTRUCTION + 2
    assert least_tokens(["Watching video clips", "Why?"]) == INSTRUCTION + 4 + 1


def test_too_many_behaviours_are_refused_with_what_would_fit():
    with pytest.raises(UserError, match=r"prompt.max_tokens: 1024: instruction and 600 behaviours.* take 2,430 tokens"
                                        r" at least.*source.top.*source.taxonomy.*raise prompt.max_tokens") as error:
        check_room(NAMES, 1024)
    top = int(re.search(r"source.top: (\d+) or so", str(error.value))[1])
    check_room(NAMES[:top], 1024)
    assert top > 100
    check_room(NAMES, 2430)


@given(st.lists(st.text(st.characters(categories=["L", "N", "P"]), min_size=1), max_size=30), st.integers(64, 300))
def test_what_is_refused_is_above_the_bound(names, most):
    try:
        check_room(names, most)
    except UserError:
        assert least_tokens(names) > most
    else:
        assert least_tokens(names) <= most
