"""Outputs appear whole or not at all: written beside their place, then renamed."""

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from stages.common.errors import UserError, full_disk, is_full_disk


DIGITS = 6
"""Significant digits of figures in JSON."""


@contextmanager
def _space_for(path: Path) -> Iterator[None]:
    """Say where there was no space, whatever wrote there."""
    try:
        yield
    except Exception as error:
        if is_full_disk(error):
            raise UserError(full_disk(path)) from error
        raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; it becomes `path` when the block ends well and vanishes when it does not.

    The old file, if any, stays untouched until then. A link at `path` (DVC's cache may be linked) is replaced, not
    written through.
    """
    with _space_for(path):
        path = _ready(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
    part = Path(name)
    try:
        with _space_for(path), _in_the_making(part):
            yield part
            part.chmod(0o644)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; it takes the place of `path` when the block ends well."""
    with _space_for(path):
        path = _ready(path)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        with _space_for(path), _in_the_making(part):
            yield part
            part.chmod(0o755)
            if path.is_symlink() or path.is_file():
                path.unlink()
            elif path.exists():
                shutil.rmtree(path)
            os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _ready(path: Path) -> Path:
    """Make the folder around `path` and clear it of what a killed run left there; not of what another writes now."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # eight random characters, as tempfile draws them: `sft` must not clear what is being written of `sft.json`
    part = f".{glob.escape(path.name)}.{'?' * 8}.part"
    # a table that a stage streams into such a part is written whole too: beside it
    for left in [*path.parent.glob(part), *path.parent.glob(f".{part}.{'?' * 8}.part")]:
        with suppress(FileNotFoundError), _in_the_making(left) as abandoned:
            if abandoned:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path


@contextmanager
def _in_the_making(part: Path) -> Iterator[bool]:
    """Hold the lock on `part` that tells other runs that it is being written; False where another run holds it.

    Where the disk knows no locks, or the system none on folders, none is held, and nothing is taken for another's.
    """
    try:
        handle = os.open(part, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        yield True
        return
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        return lock_descriptor(handle, blocking=False)
    except OSError:
        return True


def write_json(path: Path, content: Mapping[Any, Any], digits: int | None = None) -> None:
    """Write `content` as indented JSON, keys in the order given; NaN is refused.

    Args:
        digits: significant digits of numbers with a point, all without it. Figures get `DIGITS`, so that another
            machine writes the same file; what is computed with again does not.
    """
    content = _rounded(content, digits) if digits else content
    with atomic_file(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _rounded(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(each, digits) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each, digits) for each in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The user's cache of models and checkpoints: `$BEHAVIORLM_CACHE`, else the platform's own cache folder.

    Outside the workspace on purpose: `dvc repro` empties outs before a run and experiments run in copies.
    """
    if chosen := os.environ.get("BEHAVIORLM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "behaviorlm"


def fingerprint(params: Any, paths: list[Path]) -> str:
    """Twenty hex digits that change when `params` (anything JSON can hold) or any file below `paths` changes."""
    digest = hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode())
    for path in paths:
        files = [path]
        if path.is_dir():  # what Python compiled on the way is no input
            files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        for file in files:
            digest.update(f"\0{file.name}\0{sha256(file)}".encode())
    return digest.hexdigest()[:20]
