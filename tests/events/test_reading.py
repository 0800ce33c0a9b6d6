import gzip

import pytest

from stages.common.errors import UserError
from stages.events import reading
from tests.events.helpers import ROWS, write_log


def all_lines(path, encodings=("utf-8",)):
    return [pair for block in reading.blocks(path)
            for pair in reading.block_lines(path, block, encodings).select("line", "text").iter_rows()]


def test_folder_is_read_in_order_without_what_is_no_log(tmp_path):
    for name in ("b.csv", "a.csv", "README.md", ".gitignore", "b.csv.dvc", "deep/c.csv", ".hidden/d.csv"):
        write_log(tmp_path / name, ROWS)
    assert [f.name for f in reading.find_files(tmp_path, "*")] == ["a.csv", "b.csv"]
    assert [f.name for f in reading.find_files(tmp_path, "**/*.csv")] == ["a.csv", "b.csv", "c.csv"]
    assert reading.find_files(tmp_path / "b.csv", "nothing") == [tmp_path / "b.csv"]


@pytest.mark.parametrize(("path", "pattern", "says"), [
    ("absent", "*", "source.path"), (".", "*.parquet", r"'\*.parquet'"), (".", "/*.csv", "source.files"),
])
def test_no_file(tmp_path, path, pattern, says):
    write_log(tmp_path / "README.md", ROWS)
    with pytest.raises(UserError, match=says):
        reading.find_files(tmp_path / path, pattern)


@pytest.mark.parametrize("path", ["absent", "."])
def test_in_a_queued_experiments_copy_a_log_is_missing_because_dvc_does_not_know_it(tmp_path, monkeypatch, path):
    copy = tmp_path / ".dvc/tmp/exps/tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(UserError, match="copy.*`dvc add` the log"):
        reading.find_files(copy / path, "*.csv")


def test_lines_are_numbered_from_one_over_blocks_and_blank_lines(tmp_path, monkeypatch):
    file = tmp_path / "log.csv"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\ntwo, \xc3\xa9\n   \nthree\nlast")
    whole = [(1, "one"), (3, "two, é"), (5, "three"), (6, "last")]
    assert all_lines(file) == whole
    for size in range(1, 12):
        monkeypatch.setattr(reading, "BLOCK", size)
        assert all_lines(file) == whole, size


def test_gzip_equals_plain(tmp_path):
    plain = write_log(tmp_path / "log.csv", ROWS * 1000)
    packed, unnamed = tmp_path / "log.csv.gz", tmp_path / "log"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    unnamed.write_bytes(packed.read_bytes())
    assert all_lines(packed) == all_lines(plain) == all_lines(unnamed)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"plain text", lambda b: b[:-4] + b"\0\0\0\0",
                                    lambda b: b[:40] + b"\xff" * 20 + b[60:]])
def test_broken_gzip_is_named(tmp_path, damage):
    file = tmp_path / "log.csv.gz"
    file.write_bytes(damage(gzip.compress("\n".join(ROWS * 500).encode())))
    with pytest.raises(UserError, match=r"log\.csv\.gz: not a whole gzip file.*gzip -t"):
        all_lines(file)


@pytest.mark.parametrize("packed", [False, True])
def test_empty_file_is_named(tmp_path, packed):
    file = tmp_path / "log.csv"
    file.write_bytes(gzip.compress(b"") if packed else b"")
    with pytest.raises(UserError, match=r"log\.csv: the file is empty"):
        all_lines(file)


def test_file_that_grows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 64)
    file = write_log(tmp_path / "log.csv", ROWS)
    blocks = reading.blocks(file)
    next(blocks)
    with open(file, "a") as writer:
        writer.write("u9,2024-03-02 22:15:30,home,Gaming\n")
    with pytest.raises(UserError, match=r"log\.csv: changed while it was read \(from \d+ to \d+ bytes\)"):
        list(blocks)


def test_encodings(tmp_path):
    file = tmp_path / "log.csv"
    file.write_bytes("a\nb\nCafé\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"line 3: byte 0xe9 is not UTF-8.*iconv"):
        all_lines(file)
    assert all_lines(file, ("utf-8", "latin-1"))[-1] == (3, "Café")
    file.write_bytes("a\nb\n".encode("utf-16"))
    with pytest.raises(UserError, match="UTF-16; save it as UTF-8"):
        all_lines(file)


def test_file_without_line_breaks_is_no_log(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 8)
    monkeypatch.setattr(reading, "LONGEST_LINE", 32)
    (tmp_path / "log.csv").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="line 1 is longer than 32 bytes"):
        all_lines(tmp_path / "log.csv")
