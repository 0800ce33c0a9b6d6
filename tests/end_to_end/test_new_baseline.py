"""A new baseline is three files, and nothing that was there before runs again because of it."""

import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages.common import tables
from tests.contract.imports import ROOT
from tests.end_to_end.project import Project, stages_run
from tests.small_log import all_behaviors, small_log, small_windows

COPIED = ("stages", "data", ".dvcignore", "dvc.yaml", "params.yaml")
NAMES = ("bert4rec_id", "often_id", "often_next")
PIPELINES = ("dvc.yaml", "stages/baselines/dvc.yaml")
BASELINE = '''"""Every behaviour as often as it happens."""

import torch
from torch import nn

from stages.baselines.fitting.settings import Trained
from stages.baselines.sequential.objectives import cross_entropy
from stages.baselines.sequential.stage import sequential, tuned
from stages.baselines.sequential.training import Recommender


class Often(Recommender):
    def __init__(self, size):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(size))

    def loss(self, batch, generator):
        return cross_entropy(self.scores.expand(*batch.label.shape, -1), batch.label)

    def log_p(self, batch):
        return self.scores.log_softmax(dim=0).expand(len(batch.label), -1)


def fit_often(task):
    return tuned(task, "often", Trained, "Often", lambda settings: Often(task.sequences.size))


STAGE = sequential("often", __doc__, fit_often)

if __name__ == "__main__":
    STAGE.run()
'''
SETTINGS = """
often:
  dropout: [0.0]
  learning_rate: [0.1]
  weight_decay: [0.0]
  batch_size: [64]
  epochs: [3]
  warmup: [0]
"""


@pytest.fixture
def project(environment, tmp_path) -> Project:
    """A copy in which every stage's outputs are there and up to date: a small log, and else a word in each file."""
    project = Project(tmp_path / "repository", environment)
    listed = Project(ROOT, environment).git("ls-files", "--cached", "--others", "--exclude-standard", *COPIED)
    for name in listed.splitlines():
        if (ROOT / name).is_file() and not name.endswith("dvc.lock"):
            (project.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project.folder / name)
    project.git("init", "--quiet", project.folder)
    project.dvc("init", "--quiet", "--force")
    for out in Repo(project.folder).index.outs:
        path = Path(out.fs_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("an output", encoding="utf-8")
    splits = ["train"] * 5 + ["valid", "natural", "balanced"]
    events = small_log([33] * len(splits))
    log = {"events": events, "windows": small_windows(events, splits), "vocabulary": all_behaviors()}
    for name, frame in log.items():
        tables.write(frame, name, project.folder / "data" / f"{name}.parquet")
    project.dvc("commit", "--force", *PIPELINES)
    assert all(project.dvc_json("status", pipeline) == {} for pipeline in PIPELINES)
    return project


def add_baseline(project: Project) -> dict[str, str]:
    """The files that a new baseline needs, by what stands in them then."""
    folder = project.folder / "stages" / "baselines"
    pipeline, settings = ((folder / name).read_text(encoding="utf-8") for name in ("dvc.yaml", "params.yaml"))
    like = pipeline[pipeline.index("  bert4rec:\n"):].partition("\n\n")[0]
    added = pipeline.replace("  evaluate:\n", f"{like.replace('bert4rec', 'often')}\n\n  evaluate:\n")
    added = added.replace("bert4rec_id, ", "".join(f"{each}, " for each in NAMES))
    return {"systems/often.py": BASELINE, "params.yaml": settings + SETTINGS, "dvc.yaml": added}


@pytest.mark.timeout(300)
def test_a_new_baseline_is_three_files_and_runs_nothing_else_again(project):
    changes = add_baseline(project)
    assert len(changes) == 3
    for name, text in changes.items():
        (project.folder / "stages" / "baselines" / name).write_text(text, encoding="utf-8")
    assert project.dvc_json("status", "dvc.yaml") == {}
    ahead = project.dvc_json("status", "stages/baselines/dvc.yaml")
    new = {f"stages/baselines/dvc.yaml:{name}" for name in (
        "often@id", "often@next", "evaluate@often_id", "evaluate@often_next")}
    assert ahead.keys() == new
    wanted = [f"stages/baselines/dvc.yaml:{name}" for name in ("often@next", "evaluate@often_next")]
    assert stages_run(project.dvc("repro", "--single-item", *wanted)) == wanted
