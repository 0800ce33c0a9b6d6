"""LLaRA (Liao et al. 2024): a behaviour in the prompt is its name and SASRec's vector of it, through a small projector.

Kept as published: SASRec's input vectors, frozen; a projector of Linear, GELU, Linear; LoRA of rank 8, alpha 32,
dropout 0.1 on all linear layers; the curriculum, by which the batch of step t of T has the soft tokens with
probability t / T, and else ordinary ones in their places while the projector is left alone; soft tokens always at
validation and test; the loss on the label and the token behind it; the rate falling to a hundredth of its peak after
a warm-up of 5 %.

Different, and why: all V behaviours are candidates, which our candidates are. Prompts are the project's layout
`stream`, with the time and place of each event, since the model that is compared with gets no less; the published
code's one prompt a target would cost thirty times as much. Answers are scored, not generated. Soft vectors begin as
long as a token's. The published code counts steps where data are loaded, anew with each epoch as far as one can read;
here t goes on to the end. One AdamW with one weight decay for adapter and projector.

Context mode by --context. Checked: the log of the curriculum is t / T; a projector that gives the placeholder's own
vector is the prompt without soft tokens; exchanged soft vectors change the answers (tests/baselines/test_llara.py).
"""

from typing import Any

import torch
from torch import nn

from stages.baselines.language.baseline import Adapted, language
from stages.baselines.language.collaborative import CollaborativeBaseline
from stages.baselines.language.soft import Projector
from stages.baselines.sequential.sasrec import WEIGHTS
from stages.common.draws import stream

Settings = Adapted


class LLaRA(CollaborativeBaseline):
    """Attributes: `curriculum` has for each step of the last training its probability, and whether it was hybrid."""

    section, kind, modules, with_users = "llara", Settings, "all-linear", False
    curriculum: list[tuple[float, bool]]

    def build(self, settings: dict[str, Any]) -> None:
        super().build(settings)
        hidden = self.base.config.hidden_size
        net = nn.Sequential(nn.Linear(self.items.shape[1], hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.projector = Projector(net.to(self.items.device), self.items, self.embedding.mean_norm())

    def learn(self, settings: dict[str, Any]) -> dict[str, Any]:
        rng = stream(self.params.seed, "llara curriculum")
        self.curriculum = []

        def before_step(step: int, steps: int) -> None:
            self.curriculum.append((step / steps, bool(rng.random() < step / steps)))
            self.embedding.source = self._project if self.curriculum[-1][1] else None

        _, record = self.tune("LLaRA", settings, before_step=before_step, before_validation=self.prepare_vectors)
        return record | {"hybrid_steps": sum(hybrid for _, hybrid in self.curriculum)}

    @torch.no_grad()
    def prepare_vectors(self) -> None:
        vectors = self.projector(self.items)
        self.embedding.source = lambda numbers: vectors[numbers]

    def _project(self, numbers: torch.Tensor) -> torch.Tensor:
        return self.projector(self.items[numbers])


STAGE = language("llara", __doc__, LLaRA, {"sasrec": WEIGHTS})

if __name__ == "__main__":
    STAGE.run()
