"""A study as a person runs it: stopped by force, continued, and finished for good."""

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stages.common.files import read_json
from tests.end_to_end.project import Project

pytestmark = pytest.mark.timeout(1200)

# Counting only, so that an experiment takes seconds: each fold splits the users anew, and the rows share its windows.
STUDIES = """
settings:
  default: {title: the tiny log}
  quick:
    title: one setting for each baseline
    set:
      stages/baselines/params.yaml:budget.trials: 1
studies:
  counting:
    title: Counting
    repeat: windowing.fold
    values: [0, 1, 2]
    reference: markov
    metrics: [natural.rec_w, balanced.overall]
    rows:
      markov: {model: markov, label: Markov}
      majority: {model: majority}
      rarer: {model: markov, decision: adjusted, set: {windowing.anchor_threshold: 0.02}}
  special:
    title: A row that runs only when it is asked for
    values: [0]
    reference: markov
    rows:
      markov: {model: markov}
      other: {model: markov, set: {windowing.min_history: 4}, needs: an hour}
  baselines:
    title: Counting and a baseline
    values: [0]
    reference: markov
    costs: true
    rows:
      markov: {model: markov}
      sasrec: {model: sasrec_ce_id}
  broken:
    title: A row that no pipeline can run
    values: [0]
    reference: bad
    rows:
      bad: {model: markov, set: {source.format: lsapp}}
"""


def start(project: Project, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "stages.study", *arguments], cwd=project.folder,
                            env=project.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)


def finish(project: Project, *arguments: str) -> tuple[int, str]:
    process = start(project, *arguments)
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def experiments(project: Project) -> dict[str, str]:
    """Finished experiments and their commits."""
    listed = project.dvc("exp", "list", "--all-commits")
    return {name: commit for commit, name in re.findall(r"(\w+) \[(counting-.+)\]", listed)}


def started(project: Project) -> list[str]:
    """The names of the experiments that DVC began to run, as often as it did."""
    tasks = re.findall(r"^(\w+) .*(?:Running|Failed|Success) *$", project.dvc("queue", "status"), re.MULTILINE)
    logs = [project.dvc("queue", "logs", task) for task in tasks]
    return re.findall(r"Reproducing experiment '(counting-[^']+)'", "".join(logs))


def kill_everything_in(folder: Path) -> None:
    """As when the power goes: the study, DVC's worker and the experiment that it runs."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder) and process.pid != psutil.Process().pid:
                process.send_signal(signal.SIGKILL)
        except (psutil.Error, OSError):
            continue


@pytest.fixture
def counting(project: Project) -> Project:
    (project.folder / "stages" / "studies" / "studies.yaml").write_text(STUDIES, encoding="utf-8")
    project.commit("a quick study")
    return project


def test_a_killed_study_repeats_no_finished_experiment_and_a_finished_one_runs_nothing(counting):
    first = start(counting, "counting")
    # asked of Git, since a command of DVC may find its lock taken
    while "/counting-" not in counting.git("for-each-ref", "refs/exps"):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.2)
    kill_everything_in(counting.folder)
    first.communicate()
    before = experiments(counting)
    assert 1 <= len(before) < 6

    code, output = finish(counting, "counting")
    assert code == 0, output
    after = experiments(counting)
    assert len(after) == 6 and after.items() >= before.items()
    runs = started(counting)
    assert all(runs.count(name) == 1 for name in before), "a finished experiment was run again"

    code, output = finish(counting, "counting")
    assert code == 0 and "6 finished, 0 to run" in output
    assert started(counting) == runs and experiments(counting) == after

    found = read_json(counting.folder / "metrics" / "studies" / "counting.json")
    assert [row["name"] for row in found["rows"]] == ["markov", "majority", "rarer"]
    assert found["rows"][1]["metrics"]["natural.rec_w"]["difference"]["low"] is not None
    assert "| Markov |" in (counting.folder / "metrics" / "studies" / "counting.md").read_text(encoding="utf-8")


def test_a_row_is_an_experiment_to_apply(counting):
    code, output = finish(counting, "counting")
    assert code == 0, output
    facts = read_json(counting.folder / "metrics" / "studies" / "counting.json")["rows"][2]["facts"]
    counting.dvc("exp", "apply", facts[1]["experiment"])
    changed = counting.dvc_json("params", "diff")["params.yaml"]
    assert {key: value["new"] for key, value in changed.items()} == {
        "windowing.fold": 1, "windowing.anchor_threshold": 0.02}


def test_a_dry_study_runs_nothing_and_says_how_long_it_would_take(counting):
    code, output = finish(counting, "counting", "-S", "windowing.min_history=4", "--dry")
    assert code == 0 and "6 experiments, 0 finished, 6 to run" in output
    assert "windowing: 6 ×" in output and "about" in output
    assert "min_history-4" not in counting.dvc("queue", "status")


@pytest.mark.parametrize(("arguments", "wanted"), [((), 1), (("--rows", "other"), 2), (("--all-rows",), 2)])
def test_a_row_that_needs_something_runs_when_it_is_asked_for(counting, arguments, wanted):
    code, output = finish(counting, "special", "--dry", *arguments)
    assert code == 0 and f"special: {wanted} experiment" in output and ("other: seed" in output) == (wanted == 2)


def test_what_ran_on_one_machine_is_finished_on_another(counting, tmp_path):
    code, output = finish(counting, "special", "--reference", "markov")
    assert code == 0, output
    counting.git("clone", "--quiet", "--bare", counting.folder, tmp_path / "shared.git")
    counting.git("remote", "add", "shared", tmp_path / "shared.git")
    counting.dvc("remote", "add", "--local", "--force", "--default", "store", tmp_path / "store")
    counting.dvc("exp", "push", "shared", "--all-commits")

    counting.git("clone", "--quiet", tmp_path / "shared.git", tmp_path / "other")
    other = Project(tmp_path / "other", counting.environment)
    shutil.copy(counting.folder / ".dvc" / "config.local", other.folder / ".dvc")
    other.dvc("exp", "pull", "origin", "--all-commits")
    code, output = finish(other, "special")
    assert code == 0 and "1 experiments, 1 finished, 0 to run" in output, output
    found, before = (read_json(project.folder / "metrics" / "studies" / "special.json")
                     for project in (other, counting))
    assert found["rows"] == before["rows"] and started(other) == []
    assert "special --reference markov" in before["command"] and "--reference" not in found["command"]
    counting.git("remote", "remove", "shared")
    counting.dvc("remote", "remove", "--local", "store")


def test_a_budget_and_what_a_baseline_may_try_reach_the_baseline(counting):
    epochs = "stages/baselines/params.yaml:sasrec.epochs"
    asked = ("baselines", "--setting", "quick", "-S", f"{epochs}=[1, 2]", "--reference", "sasrec")
    code, output = finish(counting, *asked, "--jobs", "2")
    assert code == 0, output
    table = counting.folder / "metrics" / "studies" / "quick" / "baselines.json"
    found = read_json(table)
    facts = found["rows"][1]["facts"][0]
    assert facts["trials"] == 1 and found["overrides"] == {epochs: [1, 2]}
    assert found["reference"] == "sasrec" and "--reference sasrec" in found["command"]
    differences = {row["name"]: row["metrics"]["natural.rec_w"]["difference"] for row in found["rows"]}
    assert differences["sasrec"] is None and differences["markov"] is not None
    counting.dvc("exp", "apply", facts["experiment"])
    settings = read_json(counting.folder / "data" / "counts" / "baselines" / "sasrec_ce_id.json")["settings"]
    assert settings["epochs"] == 1, "the first one of those that were given"

    # a second seed is asked for, and nothing is run for it
    queued = counting.dvc("queue", "status")
    code, output = finish(counting, *asked, "--seeds", "2", "--report-only")
    assert code == 0 and "3 experiments, 2 finished, 1 to run" in output, output  # counting knows no seed
    assert counting.dvc("queue", "status") == queued and "--seeds 2" in read_json(table)["command"]
    assert {row["name"]: row["repetitions"] for row in read_json(table)["rows"]}["sasrec"] == [0]


def test_a_failing_experiment_is_named_with_where_to_look(counting):
    code, output = finish(counting, "broken")
    assert code == 1
    assert "1 of 1 experiments failed: broken-bad-0-" in output and "dvc queue logs" in output


@pytest.mark.parametrize(("arguments", "message"), [
    (["contains"], "study 'contains': there is none of that name"),
    (["counting", "--reference", "mark"], "row 'mark': there is none of that name; did you mean `markov`?"),
    (["counting", "-S", "windowing.history=0"], "windowing.history: 0"),
])
def test_what_cannot_be_planned_is_said_in_one_line(counting, arguments, message):
    code, output = finish(counting, *arguments)
    assert code == 1 and message in output and "Traceback" not in output
