"""Checksums of what stages write, compared by who reads it: a flipped bit shall be an error, never another number.

DVC hashes what a stage has written and then believes its cache: `dvc checkout` and `dvc pull` hand on damaged bytes.
"""

import hashlib
import re
from pathlib import Path
from typing import BinaryIO

from stages.common.errors import UserError
from stages.common.files import sha256

MARK = {"behaviorlm.checksum": "sha256:" + "0" * 64}
"""Metadata with which a Parquet file is written, for `seal` to fill in."""

CURE = ("DVC's cache may hold the same bytes, and would hand them on again: delete this and what is damaged there "
        "(data/README.md, \"Damage\"), then `dvc pull` or `dvc repro`")
"""What to do. `dvc repro -f` alone does not help: DVC puts the damaged copy of the cache in place of the new file."""

SUMS = "SHA256SUMS"
"""The file of a folder that holds the checksums of the others."""

_SUM = re.compile(r"([0-9a-f]{64})  ([^/\n]+)\n")
_SHA256, _HEX = b"sha256:", 64
_BLOCK = 1 << 20


def seal(path: Path) -> None:
    """Put its checksum into a finished Parquet file that was written with the metadata `MARK`.

    It is the sha256 of the whole file with zeros in the place of the 64 hex digits, so that it covers every byte.
    """
    with open(path, "r+b") as file:
        place = _place(file, path)
        digest = _digest(file, place)
        file.seek(place)
        file.write(digest)


def check_seal(file: BinaryIO, path: Path) -> None:
    """Compare a Parquet file with the checksum that it carries.

    Args:
        path: its name, for the message.

    Raises:
        UserError: it carries none, or is not what was written.
    """
    place = _place(file, path)
    file.seek(place)
    if file.read(_HEX) != _digest(file, place):
        raise UserError(f"{path}: damaged: these are not the bytes that were written (sha256). {CURE}")


def _place(file: BinaryIO, path: Path) -> int:
    """Where the digits stand: in the metadata, which is the last text but the writer's name that the footer has."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic != b"PAR1" or length + 12 > size:
        raise UserError(f"{path}: damaged or cut off: not a readable Parquet file. {CURE}")
    start = file.seek(size - 8 - length)
    found = (footer := file.read(length)).rfind(_SHA256)
    if found < 0 or found + len(_SHA256) + _HEX > len(footer):
        raise UserError(f"{path}: has no checksum: written by an older version or another program, which `dvc repro` "
                        f"cures, or damaged. {CURE}")
    return start + found + len(_SHA256)


def _digest(file: BinaryIO, place: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(min(_BLOCK, place - file.tell())):
        digest.update(block)
    digest.update(b"0" * _HEX)
    file.seek(place + _HEX)
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest().encode()


def seal_folder(folder: Path) -> None:
    """Write the checksums of a finished folder's files into it, last of all, as `sha256sum --check` reads them."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != SUMS]
    lines = [f"{sha256(path)}  {path.name}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Compare a folder's files with the checksums that it carries; what people put beside them is not ours to judge.

    Raises:
        UserError: it carries none, lacks a file, has one of ours more, or one is not what was written.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        raise UserError(f"{folder / SUMS}: no such file: {folder} was written by an older version or another program; "
                        "`dvc repro` makes it again, `dvc pull` fetches it") from None
    except UnicodeDecodeError:
        lines = [""]
    known = {}
    for line in lines:
        if not (found := _SUM.fullmatch(line)):
            raise UserError(f"{folder / SUMS}: damaged: {line!r} is no line of `sha256sum`. {CURE}")
        known[found[2]] = found[1]
    ours = {path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}
    for name in sorted(known.keys() | ours):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {SUMS} has it: one of the two is damaged. {CURE}")
        if name not in known:
            raise UserError(f"{path}: {SUMS} does not have it: put there by hand, or damage. {CURE}")
        if sha256(path) != known[name]:
            raise UserError(f"{path}: damaged: these are not the bytes that were written (sha256). {CURE}")
