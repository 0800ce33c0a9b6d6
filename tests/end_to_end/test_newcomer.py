"""What the README's table says of a newcomer's changes, each made in a copy: so many files, and what runs again."""

import re
import sys

import pytest

from tests.contract.imports import ROOT
from tests.end_to_end.conftest import PIPELINES
from tests.end_to_end.project import Project

pytestmark = pytest.mark.timeout(600)

FORMAT = '''"""A log of lines `user behaviour time`, with bars between them and no header."""

import polars as pl

from stages.events import delimited, times

_NAMES = ["user", "behavior", "time"]


def read(path, source):
    delimited.check_width(path, _NAMES, "|", "barred")
    for piece in delimited.records(path, _NAMES, "|"):
        yield piece.then(_rows)


def _rows(frame):
    time = times.read(frame.select("time"), times.Written())
    return frame.select(
        "line", "fingerprint", "user", *time.drop("problem"), pl.lit(None, pl.String).alias("place"), "behavior",
        pl.coalesce("problem", time["problem"]).alias("problem"), pl.struct("time").alias("written"))
'''
DAYS = [(day, ("Sleeping", "Reading")[day % 2]) for day in range(1, 9)]
LOG = "".join(f"{user}|{behavior}|2024-03-{day:02d}T08:00\n" for user in "abc" for day, behavior in DAYS)
RULE = '''
def _oldest(group: pl.DataFrame, size: int, rng: np.random.Generator) -> np.ndarray:
    """The first ones of the log."""
    return np.arange(len(group))[:size]

'''
SELECTED = """
from stages.params import read_all
from stages.selection import selection
from tests.test_selection import KNOWN, scores
params = read_all()
pairs, counts = selection(scores(), KNOWN, params.selection, params.seed)
print(params.selection.method, counts["pairs"] > 0)
"""
OBJECTIVE = '''
def hinge(pairs: PairLogProbs, params: Any) -> "Tensor":
    """A hinge on the margins."""
    return (1 - pairs.margins(params.beta)).clamp(min=0).mean()

'''
TRAINED = """
import torch
from stages.params import read_all
from stages.training.objectives import OBJECTIVES, PairLogProbs
params = read_all().dpo
pairs = PairLogProbs(*torch.tensor([[-1.0], [-2.0], [-1.5], [-1.5]]))
print(params.objective, round(float(OBJECTIVES[params.objective].loss(pairs, params)), 4))
"""


def edit(project: Project, changes: dict[str, list[tuple[str, str]]]) -> None:
    """In each file put a text in front of each place; a file that is not there begins empty."""
    for name, insertions in changes.items():
        path = project.folder / name
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for place, inserted in insertions:
            assert not place or text.count(place) == 1, (name, place)
            text = text.replace(place, inserted + place, 1) if place else inserted
        path.write_text(text, encoding="utf-8")


def set_param(project: Project, old: str, new: str) -> None:
    path = project.folder / "params.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def python(project: Project, code: str) -> str:
    """What a piece of Python prints in the copy, with this repository's tests beside it."""
    (project.folder / "tests").symlink_to(ROOT / "tests")
    return project.run(sys.executable, "-c", code).strip()


def promised() -> dict[str, int]:
    """The README's table: files to touch, by what is added."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return {name: int(count) for name, count in re.findall(r"^\| an? ([\w ]+) \| (\d) \|", text, re.MULTILINE)}


def test_every_stage_is_up_to_date(up_to_date):
    assert all(up_to_date.dvc_json("status", pipeline) == {} for pipeline in PIPELINES)


def test_a_log_format_is_one_file_and_runs_ingest_and_what_follows(up_to_date):
    changes = {"stages/events/formats/barred.py": [("", FORMAT)]}
    edit(up_to_date, changes)
    assert len(changes) <= promised()["log format"]
    # cards say of which format the log is
    assert up_to_date.dvc_json("status", "dvc.yaml").keys() == {"ingest", "card@sft", "card@dpo", "card@fusion"}
    (up_to_date.folder / "log.txt").write_text(LOG, encoding="utf-8")
    set_param(up_to_date, "format: simulated", "format: barred")
    set_param(up_to_date, "  path: data/raw\n", "  path: log.txt\n")
    assert "24 events of 3 users" in up_to_date.run(
        sys.executable, "-m", "stages.ingest", "--taxonomies", "data/taxonomy", "--out", "e.parquet", "--quarantine",
        "q.parquet", "--oracle", "o.parquet", "--counts", "c.json")


def test_a_selection_rule_is_one_file_and_runs_selection_and_what_follows(up_to_date):
    line = '    "oldest": _oldest,\n'
    changes = {"stages/pairs/rules.py": [("# One behaviour's windows", RULE), ('    "margin": _margin,', line)]}
    edit(up_to_date, changes)
    assert len(changes) <= promised()["selection rule"]
    assert up_to_date.dvc_json("status", "dvc.yaml").keys() == {"selection"}
    set_param(up_to_date, "method: kmeans", "method: oldest")
    assert python(up_to_date, SELECTED) == "oldest True"


def test_an_objective_is_one_file_and_runs_training_and_what_follows(up_to_date):
    line = '    "hinge": Objective(hinge, uses_reference=True),\n'
    changes = {"stages/training/objectives.py": [("OBJECTIVES: dict", OBJECTIVE), ('    "sft": Objective(', line)]}
    edit(up_to_date, changes)
    assert len(changes) <= promised()["objective"]
    # habits have the training loop, and so has the stage that fits them without those who are told
    assert up_to_date.dvc_json("status", "dvc.yaml").keys() == {
        "sft", "dpo", "habits", "prior@vector", "prior@logits", "card@sft", "card@dpo", "card@fusion"}
    set_param(up_to_date, "objective: dpo\n", "objective: hinge\n")
    assert python(up_to_date, TRAINED) == "hinge 0.9"


def test_a_baselines_setting_runs_nothing_of_the_main_pipeline(up_to_date):
    edit(up_to_date, {"stages/baselines/params.yaml": [("sasrec:\n", "often:\n  epochs: [1]\n\n")],
                    "stages/baselines/fitting/settings.py": [("class Trained(", "# a new kind of setting\n")]})
    assert up_to_date.dvc_json("status", "dvc.yaml") == {}
