"""What the tests of the hooks share: where they are installed, and DVC's own command."""

import os
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.contract.imports import ROOT

SITE = Path(sysconfig.get_path("purelib"))
INSTALL = "; `pip install -e .` (again after a change of stages/hooks)"

# files of the repository, and what they are in site-packages
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
COPIES: dict[str, str] = WHEEL["force-include"]

installed = pytest.mark.skipif(
    not (SITE / "behaviorlm_hooks.pth").exists() and "CI" not in os.environ, reason="not installed" + INSTALL
)


def dvc(folder: Path, *arguments: str, refused: bool = False) -> str:
    """What the command says; `refused` where it must fail."""
    command = [Path(sysconfig.get_path("scripts")) / "dvc", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert (result.returncode != 0) == refused, result.stderr
    return result.stdout + result.stderr
