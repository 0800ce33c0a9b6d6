"""Where a stage keeps what an interrupted run goes on from, and who may use it: one run at a time."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stages.common import launch
from stages.common.files import cache_folder
from stages.common.locks import alone

_AWAITED = "awaited"


def checkpoint_folder(stage: str, key: str) -> Path:
    """Found again by the same inputs only: `key` is their fingerprint."""
    return cache_folder() / "checkpoints" / f"{stage}-{key}"


@contextmanager
def checkpoints(stage: str, key: str) -> Iterator[Path]:
    """The folder, for this run alone, while the block runs; another with the same inputs waits until it ends.

    When the block ends well the folder goes, but where another run waits: that one goes on from the last checkpoint
    and need not train again.
    """
    folder = checkpoint_folder(stage, key)
    if not launch.is_first():  # the first has it for all
        yield folder
        return
    awaited = folder / _AWAITED

    def ask() -> None:
        with suppress(FileNotFoundError):  # there is nothing yet, or no longer
            awaited.touch()

    with alone(folder.with_name(f"{folder.name}.lock"), f"does the same ({stage}, from the same inputs)", ask):
        awaited.unlink(missing_ok=True)  # asked by this run, or by one that was killed
        yield folder
        if awaited.exists():
            awaited.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)
