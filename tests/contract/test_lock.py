"""What the README's commands install is pinned: bytes move with versions (that of polars is in its Parquet files)."""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
OPTIONAL = ("api", "lint", "report", "s3", "test")


def pinned():
    lines = (ROOT / ".ci/constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(str(one) == line for one, line in zip(found, lines[1:], strict=True))
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in found}


def test_the_lock_file_satisfies_the_ranges_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [one for name in OPTIONAL for one in project["optional-dependencies"][name]]
    locked = pinned()
    for one in map(Requirement, wanted):
        if one.name != project["name"]:
            assert locked[canonicalize_name(one.name)] in one.specifier, f"{one}: not in .ci/constraints.txt"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the lock file is that of Python 3.11")
def test_what_is_installed_is_what_the_lock_file_says():
    installed = {canonicalize_name(one.name): Version(one.version).public for one in importlib.metadata.distributions()}
    others = {name: (version, installed[name]) for name, version in pinned().items()
              if name in installed and installed[name] != str(Version(version))}
    assert not others, "locked, installed; `pip install -c .ci/constraints.txt -e '.[test]'`"


def test_both_commands_of_the_readme_use_the_lock_file():
    commands = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
                if line.startswith("python3.11 -m venv")]
    assert len(commands) == 2 and all(" -c .ci/constraints.txt " in line for line in commands)
