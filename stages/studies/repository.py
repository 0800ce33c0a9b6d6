"""What Git and DVC say, by their own commands."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stages.common.errors import UserError

_LISTED = re.compile(r"^\t(\w+) \[(.+)\]$", re.MULTILINE)


@dataclass(frozen=True)
class Commit:
    """`name` is the hash, None outside Git; `dirty` whether a file that Git knows differs from it."""

    name: str | None
    dirty: bool


def commit(root: Path = Path(), paths: Sequence[str] = (), short: bool = False) -> Commit:
    """Which commit the workspace stands on; Git need not be there.

    Args:
        paths: where to look for changes; none for everywhere.
        short: an abbreviated hash.
    """
    found = _git(root, "rev-parse", "--verify", *(["--short"] if short else []), "HEAD")
    if found is None:
        return Commit(None, False)
    # without its optional locks, Git leaves its index alone
    changes = _git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--", *paths)
    return Commit(found, bool(changes))


def _git(root: Path, *arguments: str) -> str | None:
    """What a Git command printed; None where it failed, or there is no Git."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, encoding="utf-8",
                              check=True).stdout.strip()
    return None


def dvc(root: Path, *arguments: str, check: bool = True, environment: Mapping[str, str] | None = None) -> str:
    """What a command of DVC's prints; `environment` instead of this process's.

    Raises:
        UserError: it failed, and `check`.
    """
    said = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, encoding="utf-8",
                          check=False, env=environment)
    if check and said.returncode:
        raise UserError(f"`dvc {' '.join(arguments)}`: failed with {said.returncode}: {said.stderr[-2000:].strip()}")
    return said.stdout


class Finished(NamedTuple):
    """An experiment that has run, whatever study it was run for."""

    name: str
    commit: str


def finished(root: Path) -> dict[str, Finished]:
    """Every finished experiment by the mark at the end of its name, whatever commit it started from.

    Raises:
        UserError: `root` is in no repository of Git and DVC.
    """
    try:
        listed = dvc(root, "exp", "list", "--all-commits")
    except UserError as error:
        raise UserError(f"{error}; studies need a Git repository with DVC in it and a commit") from None
    return {mark_of(name): Finished(name, commit) for commit, name in _LISTED.findall(listed)}


def mark_of(name: str) -> str:
    """The mark at the end of an experiment's name: what its result follows from (`plan.Experiment`)."""
    return name.rpartition("-")[2]
