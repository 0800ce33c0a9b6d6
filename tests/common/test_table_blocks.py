"""Tables that are larger than memory: written block by block, read in part."""

import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError


def block(start, size):
    rows = {"row": range(start, start + size), "split": ["train"] * size}
    return pl.DataFrame(rows, schema=tables.SCHEMAS["windows"])


def test_blocks_make_the_table_that_one_frame_makes(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS_OF_GROUP", 7)
    tables.write(block(0, 40), "windows", tmp_path / "whole")
    tables.write_blocks(iter([block(0, 3), block(3, 0), block(3, 30), block(33, 7)]), "windows", tmp_path / "blocks")
    assert (tmp_path / "blocks").read_bytes() == (tmp_path / "whole").read_bytes()
    assert tables.read("windows", tmp_path / "blocks").equals(block(0, 40))
    tables.write_blocks(iter([]), "windows", tmp_path / "none")
    assert tables.read("windows", tmp_path / "none").equals(block(0, 0))


def test_a_lazy_frame_is_written_and_read(tmp_path):
    tables.write(block(0, 9).lazy(), "windows", tmp_path / "t")
    assert tables.scan("windows", tmp_path / "t").filter(pl.col("row") > 6).collect().equals(block(7, 2))


def broken():
    yield block(0, 3)
    raise UserError("no more")


@pytest.mark.parametrize(("blocks", "says"), [
    (broken, "no more"),
    (lambda: iter([block(0, 3), block(3, 2).cast({"row": pl.Int32})]), "row: Int32, expected Int64"),
])
def test_a_block_that_fails_leaves_no_table(tmp_path, blocks, says):
    with pytest.raises(UserError, match=says):
        tables.write_blocks(blocks(), "windows", tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_scan_says_what_read_says(tmp_path):
    with pytest.raises(UserError, match=r"absent: no such file; `dvc repro` makes it"):
        tables.scan("windows", tmp_path / "absent")
    (tmp_path / "text").write_text("no table")
    with pytest.raises(UserError, match="text: damaged or cut off: not a readable Parquet file"):
        tables.scan("windows", tmp_path / "text")
    tables.write(block(0, 9), "windows", tmp_path / "t")
    with pytest.raises(UserError, match="t: not a table of oracle: p: missing"):
        tables.scan("oracle", tmp_path / "t")
    whole = (tmp_path / "t").read_bytes()
    (tmp_path / "t").write_bytes(whole[:4] + b"\0" * 40 + whole[44:])
    with pytest.raises(UserError, match="t: damaged"):
        tables.scan("windows", tmp_path / "t")


def test_what_breaks_a_table_after_it_was_checked_is_said_where_it_is_read(tmp_path):
    tables.write(block(0, 9), "windows", tmp_path / "t")
    scanned, whole = tables.scan("windows", tmp_path / "t"), (tmp_path / "t").read_bytes()
    (tmp_path / "t").write_bytes(whole[:4] + b"\0" * 40 + whole[44:])
    with pytest.raises(UserError, match="t: not a readable Parquet file"), tables.reading(tmp_path / "t"):
        scanned.collect()
