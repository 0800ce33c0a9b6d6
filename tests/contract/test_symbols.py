"""`dvc exp run -S ε=0.1`, through the real command, and what must not happen elsewhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.common.params import Params
from stages.common.symbols import SYMBOLS, translate
from tests.contract.imports import ROOT
from tests.contract.reads import keys_of

SITE = Path(sysconfig.get_path("purelib"))
SOURCE = ROOT / "stages" / "common"
INSTALL = "; `pip install -e .` (again after a change of stages/common/symbols.py)"
SECTIONS = set(Params.model_fields)

installed = pytest.mark.skipif(
    not (SITE / "behaviorlm_symbols.pth").exists() and "CI" not in os.environ, reason="not installed" + INSTALL
)


@pytest.mark.parametrize("override, expected", [
    ("ε=0.1", "sft.epsilon=0.1"),
    ("ϵ=0.1", "sft.epsilon=0.1"),
    ("λ=0.3,0.7", "selection.lambda=0.3,0.7"),
    ("β=range(1,4)", "dpo.beta=range(1,4)"),
    ("ϐ=1", "dpo.beta=1"),
    ("F=10", "selection.per_behavior=10"),
    ("L=5", "windowing.history=5"),
    ("+β=1", "+dpo.beta=1"),
    ("~β", "~dpo.beta"),
    ("sft.epsilon=0.1", "sft.epsilon=0.1"),
    ("source.path='/F=1/ε=2'", "source.path='/F=1/ε=2'"),
    ("γ=1", "γ=1"),
    ("Fold=1", "Fold=1"),
    ("", ""),
])
def test_the_key_takes_the_place_of_the_symbol_and_nothing_else_changes(override, expected):
    assert translate(override, SECTIONS) == expected


@pytest.mark.parametrize("known", [set(), {"model"}, SECTIONS | set(SYMBOLS)])
def test_a_file_of_another_project_keeps_its_own_keys(known):
    for symbol in SYMBOLS:
        assert translate(f"{symbol}=1", known) == f"{symbol}=1"


def test_every_symbol_stands_for_a_key():
    assert set(SYMBOLS.values()) <= keys_of()


def test_starting_python_costs_one_small_module():
    code = (f"import sys; sys.path.insert(0, {str(SOURCE)!r}); before = set(sys.modules); import symbols; "
            "symbols.install(); symbols.install(); print(sorted(set(sys.modules) - before), len(sys.meta_path))")
    bare = subprocess.run([sys.executable, "-I", "-S", "-c", "import sys; print(len(sys.meta_path))"],
                          capture_output=True, text=True, check=True).stdout
    hooked = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    assert hooked == f"['symbols'] {int(bare) + 1}\n"


@pytest.mark.parametrize("body, warned", [("", True), ("def to_path_overrides(given):\n    return {}\n", False)])
def test_a_dvc_that_has_changed_is_named_on_stderr(tmp_path, body, warned):
    package = tmp_path / "dvc" / "utils"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "cli_parse.py").write_text(body, encoding="utf-8")
    code = (f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(SOURCE)!r}]; import symbols; symbols.install(); "
            "import dvc.utils.cli_parse")
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert ("no dvc.utils.cli_parse.to_path_overrides" in result.stderr) == warned
    assert result.stderr.count("\n") == int(warned)


@installed
def test_what_is_installed_is_what_stands_in_the_repository():
    for name in ("symbols.pth", "symbols.py"):
        assert (SITE / f"behaviorlm_{name}").read_bytes() == (SOURCE / name).read_bytes(), "an old copy" + INSTALL


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A repository with our params and one stage, which copies them."""
    folder = tmp_path_factory.mktemp("symbols")
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "other.yaml").write_text("F: 1\nselection:\n  per_behavior: 2\n", encoding="utf-8")
    (folder / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp params.yaml seen.yaml\n    params: [sft, selection, dpo, windowing]\n"
        "    outs: [seen.yaml]\n", encoding="utf-8")
    for arguments in ("init -q", "config user.name t", "config user.email t@example.org", "add -A", "commit -qm start"):
        subprocess.run(["git", *arguments.split()], cwd=folder, check=True)
    return folder


def dvc(folder: Path, *arguments: str) -> str:
    command = [Path(sysconfig.get_path("scripts")) / "dvc", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@installed
def test_symbols_reach_the_stage_through_dvc(project):
    dvc(project, "exp", "run", "-S", "ε=0.15", "-S", "params.yaml:λ=0.75", "-S", "β=0.35", "-S", "F=3", "-S", "L=7")
    seen = YAML(typ="safe", pure=True).load((project / "seen.yaml").read_text(encoding="utf-8"))
    assert (seen["sft"]["epsilon"], seen["selection"]["lambda"], seen["dpo"]["beta"]) == (0.15, 0.75, 0.35)
    assert (seen["selection"]["per_behavior"], seen["windowing"]["history"]) == (3, 7)


@installed
def test_a_sweep_over_a_symbol_is_queued(project):
    output = dvc(project, "exp", "run", "--queue", "-S", "ϵ=0.05,0.1", "-S", "sft.warmup=0.2")
    assert "sft.epsilon=0.05" in output and "sft.epsilon=0.1" in output
    assert dvc(project, "queue", "status").count("Queued") == 2


@installed
def test_a_file_with_such_a_key_keeps_it(project):
    dvc(project, "exp", "run", "-S", "other.yaml:F=9")
    assert (project / "other.yaml").read_text(encoding="utf-8").startswith("F: 9\nselection:\n  per_behavior: 2\n")
