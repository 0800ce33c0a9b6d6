"""Files of a log, read in blocks of whole lines: a log may be larger than memory, gzip or not."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.common.errors import UserError

BLOCK = 16 * 2**20  # bytes
LONGEST_LINE = 64 * 2**20

_NO_LOG = (".dvc", ".md")  # endings of what may lie beside the log: DVC's pointers and the folder's README.md


def find_files(path: Path, pattern: str) -> list[Path]:
    """The log's files: `path` itself, or the files in the folder `path` that match `pattern`, sorted by name.

    Hidden files, Markdown and DVC's pointers are no log.

    Raises:
        UserError: `path` is absent, or no file matches.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder; set source.path in params.yaml to the log")
    try:
        found = sorted(path.glob(pattern))
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"source.files: {pattern!r}: {error}; a pattern such as '*.csv' would do") from None
    files = [
        file for file in found
        if file.is_file() and file.suffix.lower() not in _NO_LOG
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        raise UserError(
            f"{path}: no log in this folder matches {pattern!r}; put one there, or set source.path and source.files in "
            "params.yaml"
        )
    return files


def is_gzip(path: Path) -> bool:
    """Whether the file says so by its name or by its first bytes."""
    with open(path, "rb") as file:
        return path.suffix == ".gz" or file.read(2) == b"\x1f\x8b"


def blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """The file in pieces of whole lines, unpacked, each with the number of its first line (from 1).

    Raises:
        UserError: the file is empty, no whole gzip, without line breaks, or changes while it is read.
    """
    before = path.stat()
    first, rest = 1, b""
    try:
        with gzip.open(path) if is_gzip(path) else open(path, "rb") as file:
            while piece := file.read(BLOCK):
                piece = rest + piece
                cut = piece.rfind(b"\n") + 1
                if cut:
                    yield first, piece[:cut]
                    first += piece.count(b"\n", 0, cut)
                elif len(piece) > LONGEST_LINE:
                    raise UserError(
                        f"{path}: line {first} is longer than {LONGEST_LINE:,} bytes: not a log of one row a line"
                    )
                rest = piece[cut:]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path}: not a whole gzip file, broken after line {first - 1:,} ({error}); copy it again, or check it "
            "with `gzip -t`"
        ) from None
    if rest:
        yield first, rest
    elif first == 1:
        raise UserError(f"{path}: the file is empty; remove it, or export the log again")
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(
            f"{path}: changed while it was read (from {before.st_size:,} to {after.st_size:,} bytes); wait until it is "
            "written, or copy it first"
        )


def lines(path: Path, encodings: tuple[str, ...] = ("utf-8",)) -> Iterator[pl.DataFrame]:
    """The file's lines: `line`, their number from 1, and `text`, without line ends. Blank lines are left out.

    Args:
        encodings: tried in turn on each block.
    """
    for first, block in blocks(path):
        text = pl.read_lines(_utf8(path, first, block, encodings), name="text")
        yield (
            text.with_columns(line=pl.int_range(first, first + text.height, dtype=pl.Int64))
            .with_columns(pl.col("text").str.strip_chars_end("\r"))
            .filter(pl.col("text").str.strip_chars() != "")
        )


def _utf8(path: Path, first: int, block: bytes, encodings: tuple[str, ...]) -> bytes:
    if first == 1 and block.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: UTF-16; save it as UTF-8, for example with `iconv -f utf-16 -t utf-8`")
    if first == 1:
        block = block.removeprefix(b"\xef\xbb\xbf")
    for encoding in encodings:
        try:
            text = block.decode(encoding)
        except UnicodeDecodeError as error:
            fault = error
        else:
            return block if encoding == "utf-8" else text.encode()
    line = first + block.count(b"\n", 0, fault.start)
    raise UserError(
        f"{path}: line {line}: byte 0x{block[fault.start]:02x} is not {fault.encoding.upper()}; save the file as "
        "UTF-8, for example with `iconv -f latin1 -t utf-8`"
    )
