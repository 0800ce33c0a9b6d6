"""What DVC's own commands print can be read at 120 columns; `dvc exp show` is in the end-to-end tests."""

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.metrics.registry import headline
from stages.reference import BASELINES
from stages.studies.definitions import MODELS
from tests.contract.imports import ROOT

COLUMNS = 120
BASELINES_PIPELINE = "stages/baselines/dvc.yaml"
HEADER = "Path acc acc_τ all all_τ head loss medium tail tail_τ τ"
KEYS = ("rec_w", "log_loss", "overall", "head", "medium", "tail")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """The pipelines with metrics of every model and baseline on branch main, and on branch tau those of another τ."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("dvc.yaml", "params.yaml", ".dvc/config", BASELINES_PIPELINE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    yaml = YAML(typ="safe", pure=True)
    measured = {"stages": {"evaluate": yaml.load(folder / BASELINES_PIPELINE)["stages"]["evaluate"]}}
    yaml.dump(measured, folder / BASELINES_PIPELINE)
    kinds = ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE")
    own = {f"DVC_{kind}_DIR": str(folder / ".dvc" / "tmp" / kind) for kind in kinds}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "GIT_"))} | own | {
        "COLUMNS": str(COLUMNS), "GIT_CONFIG_GLOBAL": os.devnull, "DVC_NO_ANALYTICS": "1"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(branch: str, tau: float) -> None:
        run("git", "checkout", "--quiet", "-b", branch)
        for place, name in enumerate([*MODELS, *BASELINES]):
            plain = {split: dict.fromkeys(KEYS, 0.1234 + place / 1000) for split in ("natural", "balanced")}
            plain["natural"]["log_loss"] = 10.1234
            moved = {split: dict.fromkeys(KEYS, 0.4321 + tau / 10) for split in ("natural", "balanced")}
            figures = headline(plain | {"adjusted": {"tau": tau} | moved}, adjusted=name in (*MODELS, "markov", "past"))
            (folder / "metrics" / f"{name}.json").write_text(json.dumps(figures), encoding="utf-8")
        run("git", "add", "--all")
        run("git", "-c", "user.name=T", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", branch)

    run("git", "init", "--quiet")
    (folder / "metrics").mkdir()
    commit("main", 1.125)
    commit("tau", 0.375)
    return lambda *arguments: run(Path(sysconfig.get_path("scripts")) / "dvc", *arguments)


def lines(text: str) -> list[str]:
    found = text.rstrip("\n").split("\n")
    assert max(map(len, found)) <= COLUMNS
    return found


def test_metrics_are_a_table_of_models_and_numbers(repository):
    header, *rows = lines(repository("metrics", "show"))
    assert header.split() == HEADER.split()
    # every baseline of the other pipeline has a row, empty until it is fitted
    known = {row.split()[0]: row.split()[1:] for row in rows}
    assert len(known) == len(rows) < 40 and all(len(row) == 10 for row in known.values())
    for name in (*MODELS, "markov", "past"):
        assert "-" not in known[f"metrics/{name}.json"]


def test_another_tau_is_a_few_lines_of_difference(repository):
    header, *rows = lines(repository("metrics", "diff", "main", "tau"))
    assert header.split() == ["Path", "Metric", "main", "tau", "Change"] and 0 < len(rows) < 30
    assert {row.split()[1] for row in rows} == {"acc_τ", "all_τ", "tail_τ", "τ"}


def test_the_pipeline_is_drawn(repository):
    drawn = lines(repository("dag", "--md", "--collapse-foreach-matrix", "dvc.yaml"))
    assert drawn[:2] == ["```mermaid", "flowchart TD"] and '"evaluate"' in "".join(drawn) and len(drawn) < 80
    assert "| sft |" in "".join(lines(repository("dag", "sft")))


def test_dvc_yaml_is_short():
    assert len(lines((ROOT / "dvc.yaml").read_text(encoding="utf-8"))) <= 360
