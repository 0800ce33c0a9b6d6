"""The hooks are installed as they stand in the repository, cost nothing, and say where DVC has changed."""

import shutil
import subprocess
import sys

import pytest

from stages.hooks.install import HOOKS
from tests.contract.imports import ROOT
from tests.hooks.installed import COPIES, INSTALL, SITE, installed


@pytest.fixture
def site(tmp_path):
    """A folder with what `pip install` puts into site-packages."""
    for source, copy in COPIES.items():
        (tmp_path / copy).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / source, tmp_path / copy)
    return tmp_path


def python(code: str) -> subprocess.CompletedProcess:
    """Run by a bare Python: no site-packages, and nothing of the repository on the path."""
    return subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)


def test_starting_python_costs_one_small_module(site):
    start = (site / "behaviorlm_hooks.pth").read_text(encoding="utf-8").strip()
    bare = python("import sys; print(len(sys.meta_path))").stdout
    hooked = python(
        f"import sys; sys.path.insert(0, {str(site)!r}); before = set(sys.modules); {start}; "
        "behaviorlm_hooks.install(); print(sorted(set(sys.modules) - before), len(sys.meta_path))"
    ).stdout
    assert hooked == f"['behaviorlm_hooks'] {int(bare) + 1}\n"


@pytest.mark.parametrize("body, warned", [("", True), ("def {name}(given):\n    return {{}}\n", False)])
@pytest.mark.parametrize("place", ["utils.cli_parse.to_path_overrides", "repo.checkout.checkout"])
def test_a_dvc_that_has_changed_is_named_on_stderr(site, body, warned, place):
    inner, file, name = place.split(".")
    package = site / "dvc" / inner
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / f"{file}.py").write_text(body.format(name=name), encoding="utf-8")
    result = python(f"import sys; sys.path.insert(0, {str(site)!r}); import behaviorlm_hooks; "
                    f"behaviorlm_hooks.install(); import dvc.{inner}.{file} as module; "
                    f"print(hasattr(module, {name!r}))")
    assert (f"no dvc.{place}" in result.stderr) == warned
    assert result.stderr.count("\n") == int(warned)
    assert result.stdout == f"{not warned}\n"


def test_every_hook_is_installed():
    wrapping = {f"stages/hooks/{file.partition(':')[0]}.py" for _, file, _ in HOOKS.values()}
    assert {source for source in COPIES if source.endswith(".py")} == {"stages/hooks/install.py"} | wrapping


@installed
def test_what_is_installed_is_what_stands_in_the_repository():
    for source, copy in COPIES.items():
        assert (SITE / copy).read_bytes() == (ROOT / source).read_bytes(), "an old copy" + INSTALL
