"""A new baseline is three files, and nothing that was there before runs again because of it."""

import pytest

from tests.end_to_end.project import Project, stages_run

NAMES = ("sasrec_ce_id", "often_id", "often_next")
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


def add_baseline(project: Project) -> dict[str, str]:
    """The files that a new baseline needs, by what stands in them then."""
    folder = project.folder / "stages" / "baselines"
    pipeline, settings = ((folder / name).read_text(encoding="utf-8") for name in ("dvc.yaml", "params.yaml"))
    like = pipeline[pipeline.index("  bert4rec:\n"):].partition("\n\n")[0]
    added = pipeline.replace("  evaluate:\n", f"{like.replace('bert4rec', 'often')}\n\n  evaluate:\n")
    added = added.replace("sasrec_ce_id, ", "".join(f"{each}, " for each in NAMES))
    return {"systems/often.py": BASELINE, "params.yaml": settings + SETTINGS, "dvc.yaml": added}


@pytest.mark.timeout(300)
def test_a_new_baseline_is_three_files_and_runs_nothing_else_again(up_to_date):
    changes = add_baseline(up_to_date)
    assert len(changes) == 3
    for name, text in changes.items():
        (up_to_date.folder / "stages" / "baselines" / name).write_text(text, encoding="utf-8")
    assert up_to_date.dvc_json("status", "dvc.yaml") == {}
    ahead = up_to_date.dvc_json("status", "stages/baselines/dvc.yaml")
    new = {f"stages/baselines/dvc.yaml:{name}" for name in (
        "often@id", "often@next", "evaluate@often_id", "evaluate@often_next")}
    assert ahead.keys() == new
    wanted = [f"stages/baselines/dvc.yaml:{name}" for name in ("often@next", "evaluate@often_next")]
    assert stages_run(up_to_date.dvc("repro", "--single-item", *wanted)) == wanted
