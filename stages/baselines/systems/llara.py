"""LLaRA (Liao et al. 2024): a behaviour in the prompt is its name and SASRec's vector of it, through a small projector.

Kept as published: SASRec's input vectors, frozen; a projector of Linear, GELU, Linear; LoRA of rank 8, alpha 32,
dropout 0.1 on all linear layers; the curriculum, by which the batch of step t of T has the soft tokens with
probability t / T, and else ordinary ones in their places while the projector is left alone; soft tokens always at
validation and test; the loss on the label and the token behind it; the rate falling to a hundredth of its peak after
a warm-up of 5 %.

Different, and why: all V behaviours are candidates, which our candidates are. Prompts are the project's layout
`stream`, with the time and place of each event, since the model that is compared with gets no less; the published
code's one prompt a target would cost thirty times as much. Answers are weighed, not generated. Soft vectors begin as
long as a token's. The published code counts steps where data are loaded, anew with each epoch as far as one can read;
here t goes on to the end. One AdamW with one weight decay for adapter and projector.

Context mode by --context. Checked: the log of the curriculum is t / T; a projector that gives the placeholder's own
vector is the prompt without soft tokens; exchanged soft vectors change the answers (tests/baselines/test_llara.py).
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.baselines.fitting.command import Task
from stages.baselines.language.collaborative import CollaborativeRow, add_sasrec, item_vectors, load_sasrec
from stages.baselines.language.rows import Adapted, run_row
from stages.baselines.language.soft import Projector, Table
from stages.baselines.language.training import Plan, train
from stages.common.draws import stream
from stages.common.errors import run



class Settings(Adapted):
    pass


class LLaRA(CollaborativeRow):
    """Attributes: `curriculum` has for each step of the last training its probability, and whether it was hybrid."""

    section, kind, modules, with_users = "llara", Settings, "all-linear", False

    def __init__(self, task: Task, folder: Path, sasrec: Path):
        self.items = item_vectors(load_sasrec(sasrec, task.sequences))
        self.curriculum: list[tuple[float, bool]] = []
        super().__init__(task, folder)
        self.items = self.items.to(self.base.device)
        self._projector: Projector | None = None

    @property
    def projector(self) -> Projector | None:
        return self._projector

    def build(self, settings: dict[str, Any]) -> None:
        super().build(settings)
        hidden = self.base.config.hidden_size
        net = nn.Sequential(nn.Linear(self.items.shape[1], hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self._projector = Projector(net.to(self.items.device), self.items, self.embedding.mean_norm())

    def learn(self, settings: dict[str, Any]) -> dict[str, Any]:
        rng = stream(self.params.seed, "llara curriculum")
        self.curriculum = []

        def before_step(step: int, steps: int) -> None:
            self.curriculum.append((step / steps, bool(rng.random() < step / steps)))
            self.embedding.source = self._project if self.curriculum[-1][1] else None

        course = train("LLaRA", self.model, self.weights(), self.train, self.valid,
                       Plan.of(settings, self.budget.patience), self.params.seed, before_step, self.tell)
        return {"loss": course.best, "step": course.best_step, "steps": course.steps,
                "hybrid_steps": sum(hybrid for _, hybrid in self.curriculum)}

    @torch.no_grad()
    def tell(self) -> None:
        self.embedding.source = Table(self.projector(self.items))

    def _project(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.projector(self.items[numbers])


def main() -> None:
    run_row("llara", __doc__, lambda task, args: LLaRA(task, args.model, args.sasrec), add_sasrec)


if __name__ == "__main__":
    run(main)
