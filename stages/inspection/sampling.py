"""A part of a large log, as a log of its own: pieces from all over its files, with their beginnings whole."""

import gzip
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.events import json_documents, json_values, parquet, reading

BUDGET = 32 * 2**20
"""Bytes that are read of a log, about."""

_HEAD, _PIECE = 2**18, 2**18  # bytes
_LEAST = 2**20  # bytes of each file
_MOST_FILES = 200
_PARQUET_ROWS, _PARQUET_PIECES = 400_000, 16
_WHOLE_DOCUMENT = 128 * 2**20  # bytes: JSON that is no list and no lines cannot be cut


@dataclass(frozen=True)
class Part:
    """A part of a log.

    Attributes:
        root: the folder or file that takes the place of the log's.
        share: how much of the log it is, by bytes; 1 for all.
    """

    root: Path
    share: float


def part(root: Path, files: list[Path], folder: Path, budget: int = BUDGET) -> Part:
    """Write a part of a log into `folder`.

    Raises:
        UserError: a file cannot be cut.
    """
    chosen = files[:: -(-len(files) // _MOST_FILES)]
    total, taken = sum(file.stat().st_size for file in files), 0
    own = sum(file.stat().st_size for file in chosen)
    for file in chosen:
        within = Path(file.name) if root.is_file() else file.relative_to(root)
        size = file.stat().st_size
        limit = size if own <= budget else max(budget * size // own, min(_LEAST, size))
        taken += _cut(file, folder / within, limit)
    place = folder / files[0].name if root.is_file() else folder
    return Part(place if place.exists() else place.with_suffix(""), min(taken / max(total, 1), 1.0))


def _cut(file: Path, place: Path, limit: int) -> int:
    """Write at most about `limit` bytes of a file; how many bytes of it they stand for."""
    place.parent.mkdir(parents=True, exist_ok=True)
    size = file.stat().st_size
    if size <= limit:
        place.symlink_to(file.resolve())
        return size
    start = reading.start(file, json_documents.LOOKED_AT)
    if start.startswith(b"PAR1"):
        with parquet.readable(file):
            return _cut_parquet(file, place)
    if reading.is_gzip(file):
        return _cut_gzip(file, place.with_suffix("") if place.suffix == ".gz" else place, limit)
    if json_documents.is_document(start.lstrip(b"\xef\xbb\xbf \t\r\n")):
        return _cut_document(file, place, limit)
    with open(file, "rb") as source, open(place, "wb") as out:
        head = source.read(_HEAD)
        head += source.readline()
        out.write(head)
        pieces = max((limit - len(head)) // _PIECE, 1)
        for number in range(pieces):
            source.seek(max(len(head) + (size - len(head)) * number // pieces - 1, 0))
            source.readline()  # the rest of a line
            piece = source.read(_PIECE)
            out.write(piece + source.readline())
        return out.tell()


def _cut_gzip(file: Path, place: Path, limit: int) -> int:
    """The beginning alone: what is packed can be read from there only."""
    with open(file, "rb") as packed, gzip.open(packed) as source, open(place, "wb") as out:
        while out.tell() < limit and (piece := source.read(_PIECE)):
            out.write(piece)
        out.write(source.readline())
        return packed.tell()


def _cut_document(file: Path, place: Path, limit: int) -> int:
    """The first elements of a list; a document in an object as a whole."""
    with open(file, "rb") as source:
        text = source.read(limit).decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n")
    if not text.startswith("["):
        if file.stat().st_size > _WHOLE_DOCUMENT:
            raise UserError(f"{file}: a JSON document of {file.stat().st_size / 1e6:,.0f} MB, which cannot be looked "
                            "at in parts; inspect a smaller export of the same kind")
        shutil.copyfile(file, place)
        return file.stat().st_size
    end = at = 1
    while True:
        while at < len(text) and text[at] in ", \t\r\n":
            at += 1
        try:
            _, at = json_values.DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        end = at
    place.write_text(text[:end] + "]", encoding="utf-8")
    return len(text[:end].encode())


def _cut_parquet(file: Path, place: Path) -> int:
    scan = pl.scan_parquet(file, glob=False)
    rows = scan.select(pl.len()).collect().item()
    wanted = min(rows, _PARQUET_ROWS)
    each = -(-wanted // _PARQUET_PIECES)
    pieces = [scan.slice(rows * number // _PARQUET_PIECES, each).collect() for number in range(_PARQUET_PIECES)]
    pl.concat(pieces).write_parquet(place)
    return file.stat().st_size * min(each * _PARQUET_PIECES, rows) // max(rows, 1)
