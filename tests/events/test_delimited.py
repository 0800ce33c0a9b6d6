import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.events import delimited, reading
from stages.events.rules import Rule


def records(tmp_path, text, names=("a", "b", "c"), **settings):
    file = tmp_path / "log"
    file.write_text(text, encoding="utf-8", newline="")
    settings = {"separator": ",", "quotes": True} | settings
    return [row for piece in delimited.records(file, list(names), **settings)
            for row in piece.parse().select("line", "problem", *names).iter_rows()]


def test_quotes_and_their_faults(tmp_path):
    text = '1,"x, y",z\n"a ""q""",,"c"\n1,12" disc,z\n1,"open,z\nclose",2,3\n1,"b"c,d\n1,2\n1,2,3,4\n'
    assert records(tmp_path, text) == [
        (1, None, "1", "x, y", "z"), (2, None, 'a "q"', "", "c"), (3, None, "1", '12" disc', "z"),
        (4, Rule.QUOTES, None, None, None), (5, None, 'close"', "2", "3"), (6, Rule.QUOTES, None, None, None),
        (7, Rule.FIELDS, None, None, None), (8, Rule.FIELDS, None, None, None),
    ]


def test_without_quotes_they_are_letters(tmp_path):
    assert records(tmp_path, 'a\t"b\tc"\n', separator="\t", quotes=False) == [(1, None, "a", '"b', 'c"')]


def test_white_space_of_any_length_separates(tmp_path):
    assert records(tmp_path, " 1  2\t3 \n", separator=None, quotes=False) == [(1, None, "1", "2", "3")]


FIELD = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=8)


@given(st.lists(st.tuples(FIELD, FIELD, FIELD), min_size=1, max_size=20), st.sampled_from(",;\t|"),
       st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_reads_what_a_csv_writer_writes(tmp_path_factory, rows, separator, quoting):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n", quoting=quoting).writerows(rows)
    read = records(tmp_path_factory.mktemp("csv"), text.getvalue(), separator=separator)
    kept = [row for row, line in zip(rows, text.getvalue().splitlines(), strict=True) if line.strip()]
    assert [row[2:] for row in read] == kept
    assert all(problem is None for _, problem, *_ in read)


def test_separator_is_the_one_that_finds_the_columns(tmp_path):
    for separator in ",;\t|":
        middle = "x" if separator == "," else '"what, and when"'
        (tmp_path / "log").write_text(separator.join(["user", middle, "time"]) + "\n1")
        _, found, names = delimited.header(tmp_path / "log", ["user", "time"])
        assert found == separator and {"user", "time"} < set(names)


@pytest.mark.parametrize("text", ["a\tb\tc\n\t\t\n1\t2\t3\n", "a\tb\tc\n \t \t\r\n1\t2\t3\n"])
def test_lines_of_separators_only_are_blank_where_those_are_white(tmp_path, text):
    assert records(tmp_path, text, separator="\t") == [(1, None, "a", "b", "c"), (3, None, "1", "2", "3")]


def test_a_row_has_the_same_fingerprint_with_quotes_and_without(tmp_path):
    file = tmp_path / "log"
    file.write_text("1,2,3\n" * 3 + '"1",2,3\n' + "1,3,2")
    prints = []
    for block in (6, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reading, "BLOCK", block)
            pieces = list(delimited.records(file, ["a", "b", "c"], ",", quotes=True))
            prints.append([mark for piece in pieces for mark in piece.parse()["fingerprint"]])
    assert prints[0] == prints[1] and len(set(prints[0])) == 2
