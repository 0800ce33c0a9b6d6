import polars as pl
import pytest

from stages.common import tables
from stages.common.checksums import MARK, seal
from stages.common.errors import UserError


@pytest.fixture
def pairs():
    rows = [(3, "Gaming", "Reading", 0.5), (1, "看电影", "Gaming", 1.0)]
    return pl.DataFrame(rows, schema=tables.SCHEMAS["pairs"], orient="row")


def test_what_is_written_is_read(pairs, tmp_path):
    tables.write(pairs, "pairs", tmp_path / "pairs.parquet")
    assert tables.read("pairs", tmp_path / "pairs.parquet").equals(pairs)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.parquet"]


def test_columns_come_in_the_schemas_order(pairs, tmp_path):
    tables.write(pairs.select(reversed(pairs.columns)), "pairs", tmp_path / "pairs.parquet")
    assert tables.read("pairs", tmp_path / "pairs.parquet").columns == list(tables.SCHEMAS["pairs"])


@pytest.mark.parametrize(("change", "says"), [
    (lambda f: f.drop("chosen"), "chosen: missing, expected String"),
    (lambda f: f.with_columns(more=1), "more: Int32, expected no such column"),
    (lambda f: f.with_columns(pl.col("row").cast(pl.Int32)), "row: Int32, expected Int64"),
])
def test_another_schema_is_refused_where_it_is_written_and_where_it_is_read(pairs, tmp_path, change, says):
    path, wrong = tmp_path / "pairs.parquet", change(pairs)
    with pytest.raises(UserError, match=f"not a table of pairs: {says}"):
        tables.write(wrong, "pairs", path)
    assert not list(tmp_path.iterdir())
    wrong.write_parquet(path, metadata=MARK)
    seal(path)
    with pytest.raises(UserError, match=f"pairs.parquet: not a table of pairs: {says}"):
        tables.read("pairs", path)


def test_all_wrong_columns_are_named(pairs, tmp_path):
    with pytest.raises(UserError, match="chosen: missing.*row: missing"):
        tables.check(pairs.drop("row", "chosen"), "pairs", tmp_path)


def test_a_missing_file_is_refused_with_the_cure(tmp_path):
    with pytest.raises(UserError, match="pairs.parquet: no such file; `dvc repro` makes it, `dvc pull` fetches it"):
        tables.read("pairs", tmp_path / "pairs.parquet")


def test_a_damaged_file_is_refused_with_the_cure(pairs, tmp_path):
    path = tmp_path / "pairs.parquet"
    tables.write(pairs, "pairs", path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="pairs.parquet: damaged or cut off: .*`dvc pull` or `dvc repro`"):
        tables.read("pairs", path)


def test_a_name_with_stars_is_one_file(pairs, tmp_path):
    tables.write(pairs, "pairs", tmp_path / "pairs [1] *.parquet")
    tables.write(pairs.head(1), "pairs", tmp_path / "pairs [1] two.parquet")
    assert tables.read("pairs", tmp_path / "pairs [1] *.parquet").equals(pairs)


def test_every_table_survives_a_file_without_rows(tmp_path):
    for name, schema in tables.SCHEMAS.items():
        tables.write(pl.DataFrame(schema=schema), name, tmp_path / name)
        assert tables.read(name, tmp_path / name).is_empty()


def test_a_table_is_read_from_its_content_alone(tmp_path):
    frame = pl.DataFrame({"row": [1, 2], "split": ["train", "natural"]})
    tables.write(frame, "windows", tmp_path / "windows.parquet")
    assert tables.read_bytes("windows", (tmp_path / "windows.parquet").read_bytes(), tmp_path / "x").equals(frame)
