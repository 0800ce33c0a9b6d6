"""What Git says of the workspace."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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
    found = git(root, "rev-parse", "--verify", *(["--short"] if short else []), "HEAD")
    if found is None or found.returncode:
        return Commit(None, False)
    # without its optional locks, Git leaves its index alone
    changes = git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--", *paths)
    return Commit(found.stdout.strip(), bool(changes and changes.stdout.strip()))


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """What a Git command came to; None where there is no Git."""
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, encoding="utf-8", check=False)
    except OSError:
        return None
