"""A checkout does not ask for baselines that have never run, through the real command, and still reports the rest."""

import shutil
import subprocess

import pytest

from stages.hooks.checkout import BASELINES
from tests.hooks.installed import dvc, installed


@pytest.fixture
def two_pipelines(tmp_path):
    """A repository whose main pipeline has run, its output only in the cache, and whose baselines' has not."""
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "--quiet")
    stage = "stages:\n  {name}:\n    wdir: {folder}\n    cmd: echo > {out}\n    outs: [{out}]\n"
    (tmp_path / "dvc.yaml").write_text(stage.format(name="main", folder=".", out="main.txt"), encoding="utf-8")
    baselines = tmp_path / BASELINES
    baselines.parent.mkdir(parents=True)
    baselines.write_text(stage.format(name="baseline", folder="../..", out="baseline.txt"), encoding="utf-8")
    dvc(tmp_path, "repro", "--quiet")
    (tmp_path / "main.txt").unlink()
    return tmp_path


@installed
def test_a_checkout_does_not_ask_for_baselines_that_have_not_run(two_pipelines):
    dvc(two_pipelines, "checkout")
    assert (two_pipelines / "main.txt").exists()


@installed
def test_applying_an_experiment_says_nothing_of_baselines_that_have_not_run(two_pipelines):
    for arguments in ("config user.name t", "config user.email t@example.org", "add -A", "commit -qm start"):
        subprocess.run(["git", *arguments.split()], cwd=two_pipelines, check=True)
    (two_pipelines / "dvc.yaml").write_text((two_pipelines / "dvc.yaml").read_text("utf-8").replace("echo", "echo 1"))
    dvc(two_pipelines, "exp", "run", "--name", "one", "dvc.yaml")
    output = dvc(two_pipelines, "exp", "apply", "one")
    assert output == "Changes for experiment 'one' have been applied to your current workspace.\n"


@installed
@pytest.mark.parametrize(("lost", "named", "missing"), [
    (True, (), "main.txt"), (False, (f"{BASELINES}:baseline",), "baseline.txt"),
])
def test_what_else_is_missing_is_still_an_error(two_pipelines, lost, named, missing):
    if lost:
        shutil.rmtree(two_pipelines / ".dvc" / "cache")
    failed = dvc(two_pipelines, "checkout", *named, refused=True).partition("Checkout failed")[2]
    assert missing in failed and ("baseline.txt" in failed) == bool(named)
