"""Which commit the workspace stands on."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Commit:
    """`name` is the full hash, None outside Git; `dirty` whether a file that Git knows differs from it."""

    name: str | None
    dirty: bool


def commit(root: Path = Path()) -> Commit:
    """Ask Git, which need not be there."""
    name = _git(root, "rev-parse", "--verify", "HEAD")
    if name is None:
        return Commit(None, False)
    # without its optional locks, Git leaves its index alone
    return Commit(name, bool(_git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")))


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
