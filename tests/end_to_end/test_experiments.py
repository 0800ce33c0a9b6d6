"""A newcomer's day: reproduce, change one value, queue some, compare branches."""

import math
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from stages.common.files import read_json
from tests.end_to_end.project import set_values, stages_of, stages_run

# the first run of the tiny pipeline, on which all of them stand, is in the time of the first test
pytestmark = pytest.mark.timeout(1200)

# of the model to be used, the headline figures, and the params that differ: as in README
EXPERIMENTS = r"(?!Exp|.*dpo.json:(acc|all|tail)$|[a-z]+\.[a-z_]+$)"

with_symbols = pytest.mark.skipif(
    not (Path(sysconfig.get_path("purelib")) / "behaviorlm_hooks.pth").exists(),
    reason="the paper's symbols work after `pip install -e .`",
)


def leaves(content: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for name, value in content.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def test_a_clone_runs_every_stage_once_and_then_nothing(fresh):
    project, output = fresh
    assert sorted(stages_run(output)) == sorted(stages_of(project.folder / "dvc.yaml"))
    assert "Warning" not in output, "a library's notice that is nothing to the user"
    again = project.dvc("repro")
    assert stages_run(again) == []
    assert "up to date" in again
    assert project.changed() == []


def test_models_are_measured_alike(project):
    for folder in ("metrics", "data/evaluation"):
        metrics = {name: read_json(project.folder / folder / f"{name}.json") for name in ("base", "sft", "dpo")}
        assert leaves(metrics["base"]).keys() == leaves(metrics["sft"]).keys() == leaves(metrics["dpo"]).keys()
        for content in metrics.values():
            assert all(math.isfinite(value) for value in leaves(content).values() if isinstance(value, int | float))


def test_beta_runs_b_tuning_and_its_evaluation_only(project):
    before = (project.folder / "params.yaml").read_text(encoding="utf-8").splitlines()
    adapter = project.folder / "models" / "dpo" / "adapter_model.safetensors"
    weights = adapter.read_bytes()
    output = project.dvc("exp", "run", "--name", "hotter", "-S", "dpo.beta=0.3")
    moved = adapter.read_bytes() != weights
    assert moved, "no validation was better than the SFT adapter's: the model in conftest.py needs another seed"
    assert stages_run(output) == ["dpo", "predictions@dpo", "evaluate@dpo", "card@dpo"]
    after = (project.folder / "params.yaml").read_text(encoding="utf-8").splitlines()
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [("  beta: 0.1", "  beta: 0.3")]


def test_what_was_run_before_comes_out_of_the_run_cache(project):
    set_values(project.folder / "params.yaml", {"dpo.beta": 0.3})
    assert stages_run(project.dvc("repro")) == []
    assert project.changed() != []


def test_queued_experiments_run_elsewhere_and_are_shown(project):
    project.dvc("exp", "run", "--queue", "--name", "difficult", "-S", "selection.lambda=0.25,0.75", "selection")
    output = project.dvc("exp", "run", "--run-all")
    assert stages_run(output) == ["selection", "selection"]
    assert project.changed() == []
    table = project.dvc("exp", "show", "--csv")
    rows = [line for line in table.splitlines() if line.startswith("difficult-")]
    assert len(rows) == 2 and all("Success" in row for row in rows)
    assert project.dvc("queue", "status").count("Success") == 2


def test_branches_are_compared_by_metrics_params_and_plots(project):
    for experiment in ("hotter", "difficult-1"):
        project.dvc("exp", "branch", experiment, f"try-{experiment}")
    metrics = project.dvc_json("metrics", "diff", "main", "try-hotter")
    assert metrics.keys() == {"metrics/dpo.json"}
    assert metrics["metrics/dpo.json"]["loss"]["diff"] != 0
    params = project.dvc_json("params", "diff", "main", "try-difficult-1")
    assert params.keys() == {"params.yaml"} and params["params.yaml"].keys() == {"selection.lambda"}
    output = project.dvc("plots", "diff", "main", "try-hotter", "--out", project.folder.parent / "plots")
    page = Path(output.strip().splitlines()[-1].removeprefix("file://")).read_text(encoding="utf-8")
    assert "try-hotter" in page and "DPO: " in page
    project.git("checkout", "--quiet", "try-hotter")
    project.dvc("checkout")
    assert stages_run(project.dvc("repro")) == []


@pytest.mark.parametrize(("command", "most", "shown"), [
    (["metrics", "diff", "main", "try-hotter"], 25, "metrics/dpo.json"),
    (["exp", "show", "--only-changed", "--drop", EXPERIMENTS], 40, "[hotter]"),
    (["dag", "--md", "--collapse-foreach-matrix", "dvc.yaml"], 80, '"evaluate"'),
])
def test_what_dvc_prints_fits_120_columns(project, command, most, shown):
    narrow = replace(project, environment=project.environment | {"COLUMNS": "120"})
    printed = narrow.dvc(*command).rstrip().split("\n")
    assert max(map(len, printed)) <= 120 and len(printed) <= most
    assert any(shown in line for line in printed)


@with_symbols
def test_epsilon_by_its_symbol_runs_a_tuning_and_what_follows(project):
    output = project.dvc("exp", "run", "--name", "more-chat", "-S", "ε=0.5", "sft")
    assert stages_run(output) == ["sft"]
    assert "  epsilon: 0.5\n" in (project.folder / "params.yaml").read_text(encoding="utf-8")
    ahead = project.dvc_json("status", "dvc.yaml")
    # those that read models/sft, or the card of what it was made with; the others follow them
    assert ahead.keys() == {"scoring", "dpo", "predictions@sft", "fusion", "card@sft", "card@dpo", "card@fusion"}


def test_a_log_outside_the_repository_is_watched(project, tmp_path):
    log = tmp_path / "log.csv"
    hours = [f"{user},2024-03-{day:02d}T{hour:02d}:00:00,home,{('Sleeping', 'Reading')[hour % 2]}"
             for user in range(3) for day in range(1, 4) for hour in range(8, 20)]
    log.write_text("\n".join(["user,time,place,behavior", *hours, ""]), encoding="utf-8")
    output = project.dvc("exp", "run", "-S", "source.format=table", "-S", f"source.path={log}", "ingest")
    assert stages_run(output) == ["ingest"]
    assert stages_run(project.dvc("repro", "ingest")) == []
    with log.open("a", encoding="utf-8") as file:
        file.write("0,2024-03-09T08:00:00,home,Reading\n")
    assert stages_run(project.dvc("repro", "ingest")) == ["ingest"]
