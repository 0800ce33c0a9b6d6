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
    ("name,label\na,b\n", r"line 1: the header is 'name,label'"),
    ("raw,behavior\na\n", "line 2: 'a': two fields"),
    ("raw,behavior\na,b,c\n", "line 2: 'a,b,c'.*quote a comma"),
    ("raw,behavior\na,b\nb,\n", "line 3"),
    ("raw,behavior\na,B\nb,b\n", r"line 3: 'b' and 'B' \(line 2\) differ in case only"),
    ("raw,behavior\na,B\na,C\n", "line 3: 'a' is 'C' here and 'B' on line 2"),
    ("raw,behavior\na,<|im_start|>\n", r"line 2: '<\|im_start\|>': chat-template token"),
    ("raw,behavior\na,x\ty\n", "line 2.*control character"),
    (f"raw,behavior\na,{'x' * 101}\n", "line 2.*longer than 100"),
    ("raw,behavior\n", "no names"), ("", "empty"),
])
def test_faults_are_named_with_their_line(tmp_path, text, says):
    with pytest.raises(UserError, match=rf"names\.csv: .*{says}"):
        taxonomy.read(write(tmp_path, text))


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
