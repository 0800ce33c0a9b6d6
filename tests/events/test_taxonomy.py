import polars as pl
import pytest

from stages.common.errors import UserError
from stages.events import taxonomy
from tests.events.helpers import ROOT

OURS = ROOT / "data" / "taxonomy"


def write(tmp_path, text, encoding="utf-8"):
    (tmp_path / "names.csv").write_text(text, encoding=encoding)
    return tmp_path / "names.csv"


def test_reads_quotes_spaces_and_a_byte_order_mark(tmp_path):
    table = taxonomy.read(write(tmp_path, '\ufeffraw,behavior\n"a, b",Gaming\n\n c  d , Playing  chess \n'))
    assert table.rows() == [("a, b", "Gaming"), ("c d", "Playing chess")]


@pytest.mark.parametrize(("text", "says"), [
    ("name,label\na,b\n", "line 1: 2 fields that are not the header; it must be 'raw,behavior'"),
    ("raw,behavior\na\n", "line 2: 1 fields; two are needed"),
    ("raw,behavior\na,b,c\n", "line 2: 3 fields.*quote a comma"),
    ("raw,behavior\na,b\nb,\n", "line 3: an empty field"),
    ("raw,behavior\na,B\na,C\n", "line 3: 'a' is 'C' here and 'B' on line 2"),
    ("raw,behavior\na,<|im_start|>\n", r"line 2: '<\|im_start\|>': chat-template token"),
    ("raw,behavior\na,x\ty\n", "line 2.*control character"),
    (f"raw,behavior\na,{'x' * 101}\n", "line 2.*longer than 100"),
    ("raw,behavior\n", "no names"), ("", "empty"),
])
def test_faults_are_named_with_their_line(tmp_path, text, says):
    with pytest.raises(UserError, match=rf"names\.csv: .*{says}"):
        taxonomy.read(write(tmp_path, text))


def test_a_log_taken_for_a_taxonomy_is_not_shown(tmp_path):
    for text in ("ann@example.org,Gaming\n", "raw,behavior\nann@example.org,2024-03-01,Gaming\n"):
        with pytest.raises(UserError) as error:
            taxonomy.read(write(tmp_path, text))
        assert "example" not in str(error.value)


def look_up(names, *pairs):
    table = pl.DataFrame(pairs, schema={"raw": pl.String, "behavior": pl.String}, orient="row") if pairs else None
    return taxonomy.Taxonomy(table).look_up(pl.Series(names, dtype=pl.String)).rows()


def test_a_name_is_looked_up_as_it_is_first_then_in_any_case():
    assert look_up(["GYM", "gym", "Gym", "Bar"], ("gym", "Working out"), ("Gym", "Climbing"), ("bar", "Drinking")) == [
        (None, None, True),  # it may mean either
        ("gym", "Working out", False), ("Gym", "Climbing", False), ("bar", "Drinking", False)]
    assert look_up(["GYM"], ("gym", "Working out"), ("Gym", "working OUT")) == [("gym", "Working out", False)]
    assert look_up(["STRASSE"], ("Straße", "Driving")) == [("Straße", "Driving", False)]


def test_without_a_taxonomy_no_name_is_unlisted():
    assert look_up(["Gym"]) == [(None, None, False)] and look_up([], ("a", "b")) == look_up([]) == []


def test_latin_1_is_refused(tmp_path):
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        taxonomy.read(write(tmp_path, "raw,behavior\nCafé,x\n", "latin-1"))


def test_finding(tmp_path):
    write(tmp_path, "raw,behavior\n")
    assert taxonomy.find("none", "table", tmp_path) is None
    assert taxonomy.find("auto", "table", tmp_path) is None
    assert taxonomy.find("names.csv", "table", tmp_path) == tmp_path / "names.csv"
    assert taxonomy.find("auto", "foursquare_nyc", OURS).name == "foursquare_nyc.csv"
    with pytest.raises(UserError, match=r"source.taxonomy: 'other.csv': no such file in .*there: names.csv"):
        taxonomy.find("other.csv", "table", tmp_path)


def test_ours_for_foursquare_names_few_behaviours_shortly():
    table = taxonomy.read(OURS / "foursquare_nyc.csv")
    behaviors = table["behavior"].unique()
    assert 35 <= len(behaviors) <= 40
    assert all(1 <= len(name.split()) <= 4 for name in behaviors)
    assert {"Café", "Home (private)", "Ramen / Noodle House"} <= set(table["raw"])
