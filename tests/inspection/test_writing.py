"""What people answer on the command line, as values of keys."""

import pytest

from stages.common.errors import UserError
from stages.inspection.writing import answers


@pytest.mark.parametrize(("word", "value"), [
    ("time_format=%m/%d/%Y", "%m/%d/%Y"), ("time_format='%m/%d/%Y'", "%m/%d/%Y"), ('time_format="%d %b"', "%d %b"),
    ("columns.behavior=@x", "@x"), ("columns.behavior=*", "*"), ("columns.behavior=[a", "[a"),
    ("columns.behavior=`x", "`x"), ('columns.behavior="What', '"What'), ("columns.user=- a", "- a"),
    ("columns.user=a: b", "a: b"), ("columns.user=7", 7), ("header=false", False), ("split=,", ","), ("place=", ""),
    ("event_columns=[user, time]", ["user", "time"]), ("time_zone=Europe/Berlin", "Europe/Berlin"),
    ("columns.user=2024-05-06", "2024-05-06"), ("columns.user=null", "null"), ("separator=' '", " "),
])
def test_a_value_is_what_it_would_be_in_the_file_and_else_the_text_itself(word, value):
    found = answers([word])
    assert list(found.values()) == [value] and type(found[word.partition("=")[0]]) is type(value)


def test_a_key_may_be_written_whole_and_a_word_without_a_value_is_none():
    assert answers(["source.time_zone=UTC"]) == {"time_zone": "UTC"}
    for word in ("time_zone", "=x"):
        with pytest.raises(UserError, match="expected KEY=VALUE"):
            answers([word])
