"""Files of a log, read in blocks of whole lines: a log may be larger than memory, gzip or not."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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
        raise UserError(f"{path}: no such file or folder; {_cure('set source.path in params.yaml to the log')}")
    try:
        files = files_of(path, pattern)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"source.files: {pattern!r}: {error}; a pattern such as '*.csv' would do") from None
    if not files:
        raise UserError(
            f"{path}: no log in this folder matches {pattern!r}; "
            + _cure("put one there, or set source.path and source.files in params.yaml")
        )
    return files


def files_of(folder: Path, pattern: str) -> list[Path]:
    """The files in a folder that match `pattern` and may be a log, sorted by name; perhaps none."""
    return [
        file for file in sorted(folder.glob(pattern))
        if file.is_file() and file.suffix.lower() not in _NO_LOG
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _cure(usual: str) -> str:
    """`usual`, but in the copy of the repository in which a queued experiment runs."""
    if ".dvc/tmp/exps/" in Path.cwd().as_posix():
        return ("this is a queued experiment's copy, which has only what Git and DVC know: `dvc add` the log in your "
                "own repository and queue the run again")
    return usual


def is_gzip(path: Path) -> bool:
    """Whether the file says so by its name or by its first bytes."""
    with open(path, "rb") as file:
        return path.suffix == ".gz" or file.read(2) == b"\x1f\x8b"


class Block(NamedTuple):
    """Whole lines of a file: the number of the first (from 1), their bytes, and how much of the file is read."""

    first: int
    text: bytes
    end: int


class Piece(NamedTuple):
    """A part of a file whose bytes are read: `parse` makes the rest of it, in any thread, in any order of the parts."""

    parse: Callable[[], Any]
    end: int  # bytes of the file that are read with it

    def then(self, step: Callable[[Any], Any]) -> "Piece":
        """This piece with one more step after those it has."""
        return Piece(lambda: step(self.parse()), self.end)


def fingerprints(fields: pl.DataFrame, names: list[str]) -> pl.Series:
    """A hash of each row, by the fields `names`; one for all where there are none."""
    return fields.select(names).hash_rows() if names else pl.repeat(0, fields.height, dtype=pl.UInt64, eager=True)


def count(text: bytes, byte: bytes) -> int:
    """How often a byte stands in `text`: several times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == byte[0]))


def blocks(path: Path) -> Iterator[Block]:
    """The file in blocks of whole lines, unpacked.

    Raises:
        UserError: the file is empty, no whole gzip, without line breaks, or changes while it is read.
    """
    before = path.stat()
    first, rest = 1, b""
    try:
        with open(path, "rb") as packed, gzip.open(packed) if is_gzip(path) else packed as file:
            while piece := file.read(BLOCK):
                # the end of the file: its last line may want its break, and is one of this block all the same
                ended = len(piece) < BLOCK and not piece.endswith(b"\n")
                piece = rest + piece + b"\n" * ended
                cut = piece.rfind(b"\n") + 1
                if cut:
                    text = piece[:cut]
                    yield Block(first, text, packed.tell())
                    first += count(text, b"\n")
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
        yield Block(first, rest, before.st_size)
    elif first == 1:
        raise UserError(f"{path}: the file is empty; remove it, or export the log again")
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(
            f"{path}: changed while it was read (from {before.st_size:,} to {after.st_size:,} bytes); wait until it is "
            "written, or copy it first"
        )


def whole(path: Path) -> bytes:
    """A file, unpacked, however long its lines.

    Raises:
        UserError: it is empty, or no whole gzip.
    """
    try:
        with open(path, "rb") as packed, gzip.open(packed) if is_gzip(path) else packed as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); copy it again, or check it with `gzip -t`") from None
    if not content.strip():
        raise UserError(f"{path}: the file is empty; remove it, or export the log again")
    return content


def first_line(path: Path, encodings: tuple[str, ...] = ("utf-8",), skip: int = 0) -> tuple[int, str]:
    """Number and text of the first line below `skip` lines that is not blank.

    Raises:
        UserError: all are blank; and as `blocks`.
    """
    for block in blocks(path):
        if (lines := block_lines(path, block, encodings).filter(pl.col("line") > skip)).height:
            return lines["line"][0], lines["text"][0]
    if skip:
        raise UserError(f"{path}: nothing stands below the first {skip:,} lines; set source.skip to fewer")
    raise UserError(f"{path}: all lines are blank; remove the file, or export the log again")


def start(path: Path, size: int = 4096) -> bytes:
    """The first bytes, unpacked; none where that fails, which the reading proper reports."""
    try:
        with open(path, "rb") as packed, gzip.open(packed) if is_gzip(path) else packed as file:
            return file.read(size)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return b""


def block_lines(path: Path, block: Block, encodings: tuple[str, ...] = ("utf-8",)) -> pl.DataFrame:
    """The block's lines: `line`, their number from 1, and `text`, without line ends. Blank lines are left out.

    Args:
        path: named in errors.
        encodings: tried in turn.

    Raises:
        UserError: the block is in none of the encodings.
    """
    text = pl.read_lines(_utf8(path, block.first, block.text, encodings), name="text")
    return (
        text.with_columns(line=pl.int_range(block.first, block.first + text.height, dtype=pl.Int64))
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
