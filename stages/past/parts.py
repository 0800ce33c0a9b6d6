"""Which models stand behind a pool's parts, and by what it knows them again."""

from collections.abc import Iterable
from pathlib import Path

from stages.common.checksums import SUMS, check_folder
from stages.common.files import sha256

PAST = "reference/past"
"""The counts of the whole past, by the name that a pool gives their table."""

HABITS = "habits"


def folder_of(part: str) -> str | None:
    """The folder in `models` that answers for a part; None for a baseline, which has predictions only."""
    if part == PAST:
        return HABITS  # counted on the same chain
    return None if "/" in part else part


def digests(models: Path, parts: Iterable[str]) -> dict[str, str]:
    """Of each folder in `models` that answers for one of `parts`: the sha256 of its checksums.

    Raises:
        UserError: one is absent or damaged.
    """
    folders = sorted({folder for part in parts if (folder := folder_of(part))})
    for folder in folders:
        check_folder(models / folder)
    return {folder: sha256(models / folder / SUMS) for folder in folders}
