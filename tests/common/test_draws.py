"""Seeded choices belong to their purpose, and the numbers of old purposes stay."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.draws import _NUMBERS, first_of_each, positions, stream


@pytest.mark.parametrize(("purpose", "number"), _NUMBERS.items())
def test_a_purpose_with_a_number_keeps_it(purpose, number):
    old = np.random.default_rng([7, number, 3])
    assert np.array_equal(stream(7, purpose, 3).random(5), old.random(5))


def test_the_pairs_that_share_a_number_are_these():
    shared = [number for number in set(_NUMBERS.values()) if list(_NUMBERS.values()).count(number) > 1]
    assert sorted(shared) == [0, 1, 8]


def test_any_other_purpose_has_numbers_of_its_own_without_being_listed():
    drawn = [stream(*keys).random() for keys in
             [(0, "a new baseline"), (0, "another"), (1, "another"), (0, "another", 1), (0, "another", 2),
              *((0, purpose) for purpose in {number: purpose for purpose, number in _NUMBERS.items()}.values())]]
    assert len(set(drawn)) == len(drawn)
    assert stream(0, "another").random() == drawn[1]


def test_numpy_reads_a_seed_alone_as_a_seed_and_zero():
    """Which is why no stream is made of a bare seed: it would be the purpose of number 0."""
    assert np.random.default_rng(7).random() == np.random.default_rng([7, 0]).random()


def test_no_code_makes_a_generator_of_a_list():
    """`[seed, number]` without a name meets the streams of other purposes; names cannot."""
    here = Path(__file__).parents[2] / "stages"
    found = [str(path.relative_to(here)) for path in sorted(here.rglob("*.py"))
             if "default_rng([" in path.read_text(encoding="utf-8")]
    assert found == ["common/draws.py"]


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(0, 5))
def test_the_first_of_each_group(groups, most):
    expected = [place for place, group in enumerate(groups) if groups[:place].count(group) < most]
    assert first_of_each(np.array(groups, dtype=np.int64), most).tolist() == expected


def test_positions_within_runs():
    assert positions(np.array([5, 5, 3, 3, 3, 8])).tolist() == [0, 1, 0, 1, 2, 0]
    assert positions(np.array([], dtype=np.int64)).tolist() == []
