import unicodedata

import polars as pl
import pytest

from stages.common.errors import UserError
from stages.common.names import CONTROL, case_twins, check_printable


def test_control_characters_are_those_of_unicode_in_python_and_in_polars():
    every = [chr(code) for code in range(0x110000)]
    for name in ("Cc", "Cs", "Zl", "Zp"):
        assert any(unicodedata.category(c) == name for c in every)
    text = [c for c in every if unicodedata.category(c) != "Cs"]
    found = pl.Series(text).str.contains(CONTROL)
    assert found.to_list() == [unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text]


@pytest.mark.parametrize("bad", ["\n", "\x7f", "\u2028", "\ud800"])
def test_what_is_no_line_of_printable_text_is_refused_by_name(bad):
    with pytest.raises(UserError, match="place 'a.*b': has the control character .*one line of printable text"):
        check_printable(f"a{bad}b", "place")


def test_letters_of_any_script_are_printable():
    check_printable('看电影, "Straße" (ü)', "behavior")


def test_twins_are_the_first_two_that_differ_in_case_only():
    assert case_twins(["a", "b", "a", "ß", "B", "SS"]) == (1, 4)
    assert case_twins(["straße", "STRASSE"]) == (0, 1)
    assert case_twins(["a", "b", "a"]) is None
