"""A log that a queued experiment's copy would lack is named before, and one that is not there by its key."""

import shutil
import subprocess

import pytest

from stages.hooks.source import OURS
from tests.contract.imports import ROOT
from tests.hooks.installed import dvc, installed

SOURCE = "source:\n  format: {format}\n  path: {path}\n  files: '*.csv'\n"


@pytest.fixture
def project(tmp_path):
    """A repository with one stage that reads the log, which nobody has told Git or DVC of."""
    root = tmp_path / "repository"
    (root / "data/raw").mkdir(parents=True)
    (root / OURS).parent.mkdir(parents=True)
    shutil.copy(ROOT / OURS, root / OURS)
    (root / "data/raw/README.md").write_text("Logs.\n", encoding="utf-8")
    (root / "params.yaml").write_text(SOURCE.format(format="table", path="data/raw"), encoding="utf-8")
    (root / "dvc.yaml").write_text(
        "stages:\n  read:\n    cmd: cp ${source.path}/log.csv read.csv\n    deps: ['${source.path}']\n"
        "    outs: [read.csv]\n", encoding="utf-8")
    for arguments in ("init -q", "config user.name t", "config user.email t@example.org"):
        subprocess.run(["git", *arguments.split()], cwd=root, check=True)
    dvc(root, "init", "--quiet")
    commit(root)
    (root / "data/raw/log.csv").write_text("a,b\n", encoding="utf-8")
    return root


def commit(root):
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run(["git", "commit", "-qm", "more"], cwd=root, check=True)


def queue(root, *overrides, refused=True):
    return dvc(root, "exp", "run", "--queue", *(part for each in overrides for part in ("-S", each)), refused=refused)


@installed
@pytest.mark.parametrize("how", ["--queue", "--temp"])
def test_a_log_that_nobody_knows_is_named_before_it_is_missing_in_the_copy(project, how):
    output = dvc(project, "exp", "run", how, refused=True)
    assert "neither DVC nor Git knows data/raw/log.csv" in output and "`dvc add data/raw/log.csv` first" in output
    dvc(project, "exp", "run")  # the workspace has it


@installed
@pytest.mark.parametrize("known", ["dvc", "git", "taken along"])
def test_a_log_that_dvc_or_git_knows_is_queued(project, known):
    if known == "dvc":
        dvc(project, "add", "data/raw/log.csv")
    if known != "taken along":
        commit(project)
        assert "Queued" in queue(project, refused=False)
    else:
        assert "Queued" in dvc(project, "exp", "run", "--queue", "-C", "data/raw/log.csv")


@installed
def test_every_log_of_a_sweep_is_looked_for(project):
    dvc(project, "add", "data/raw/log.csv")
    (project / "other").mkdir()
    (project / "other/log.csv").write_text("a,b\n", encoding="utf-8")
    assert "knows other/log.csv" in queue(project, "source.path=data/raw,other")
    assert "source.path: nowhere: no such file or folder" in queue(project, "source.path='nowhere'")
    assert "source.path: ../logs: lies outside" in queue(project, "params.yaml:source.path=../logs")


@installed
def test_logs_elsewhere_and_simulated_ones_need_nobody(project, tmp_path):
    (tmp_path / "log.csv").write_text("a,b\n", encoding="utf-8")
    assert "Queued" in queue(project, f"source.path={tmp_path / 'log.csv'}", refused=False)
    assert "Queued" in queue(project, "source.format=simulated", refused=False)


@installed
def test_a_source_path_that_leads_nowhere_is_named_by_its_key(project):
    says = "ERROR: source.path: nowhere: no such file or folder; set it in params.yaml to the log"
    assert says in dvc(project, "exp", "run", "-S", "source.path=nowhere", refused=True)
    (project / "params.yaml").write_text(SOURCE.format(format="table", path="nowhere"), encoding="utf-8")
    assert says in dvc(project, "repro", refused=True)


POOL = """
  past:
    cmd: mkdir -p data/predictions/reference && cp data/raw/log.csv data/predictions/reference/past.parquet
    outs: [data/predictions/reference]
  fusion:
    cmd: cp data/predictions/${fusion.beside}.parquet pool.txt
    deps: ['data/predictions/${fusion.beside}.parquet']
    params: [fusion]
    outs: [pool.txt]
"""


@installed
@pytest.mark.parametrize(("beside", "runs", "says"), [
    ("nothing", False, "ERROR: fusion.beside: nothing: no stage makes data/predictions/nothing.parquet"),
    ("fusion", False, "ERROR: fusion.beside: fusion is in the pool already"),
    ("sft", False, "ERROR: fusion.beside: sft is in the pool already"),
    ("reference/nothing", True, "ERROR: fusion.beside: reference/nothing: no stage makes data/predictions/reference"),
])
def test_what_is_to_be_pooled_and_no_stage_makes_is_named_by_its_key(project, beside, runs, says):
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text("utf-8") + POOL.lstrip("\n"), encoding="utf-8")
    params = SOURCE.format(format="table", path="data/raw") + "fusion:\n  model: sft\n  beside: {}\n"
    (project / "params.yaml").write_text(params.format(beside), encoding="utf-8")
    output = dvc(project, "repro", refused=True)
    assert says in output and ("Running stage 'read'" in output) == runs
    (project / "params.yaml").write_text(params.format("reference/past"), encoding="utf-8")
    dvc(project, "repro")
    assert (project / "pool.txt").read_text("utf-8") == "a,b\n"


@installed
def test_a_log_that_is_not_there_is_not_taken_for_what_is_to_be_pooled(project):
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text("utf-8") + POOL.lstrip("\n"), encoding="utf-8")
    (project / "params.yaml").write_text(SOURCE.format(format="table", path="nowhere")
                                         + "fusion:\n  model: sft\n  beside: reference/past\n", encoding="utf-8")
    output = dvc(project, "repro", refused=True)
    assert "ERROR: source.path: nowhere: no such file or folder" in output and "fusion.beside" not in output


@installed
def test_other_failures_are_reported_as_dvc_does(project):
    (project / "data/raw/log.csv").unlink()
    output = dvc(project, "repro", refused=True)
    assert "failed to run: cp" in output and "source.path:" not in output
    (project / OURS).unlink()  # another project
    (project / "params.yaml").write_text(SOURCE.format(format="table", path="nowhere"), encoding="utf-8")
    output = dvc(project, "repro", refused=True)
    assert "failed to reproduce 'read'" in output and "source.path:" not in output
