"""CoLLM-gen, after CoLLM (Zhang et al. 2023): a language model reads SASRec's vectors, by a mapping learned last.

Kept as published: stage 1 tunes LoRA (rank 8, alpha 16, dropout 0.05, query and value projections) on prompts without
vectors; stage 2 freezes adapter and recommender and trains only the mapping, Linear d to 10 d, ReLU, Linear, one for
people and items. An item's vector is SASRec's embedding of it, a person's SASRec's last hidden state.

Different, hence "gen", and why: the answer is a label and the loss its cross-entropy; the published one is Yes or No
on one target, V readings a window. Prompts are the layout `stream` with soft tokens: in one reading every event is a
target, so the person's token stands before each label and knows the events before it that are in the prompt, no more.
Stage 1 reads the words of the same prompts, cut to the length that they have with vectors: like TALLRec's second stage,
without its first. Where the vectors do not lower the validation loss, it is kept and words alone are read. Soft vectors
begin as long as a token's: the real model, untuned, then reads them nearly as it reads the words alone (.915 against
.883 on 120 targets of Foursquare), where an ordinary token in their places costs it everything (3.4). Frozen adapters
have no dropout. Rates fall in a cosine from the start's warm-up, in both stages.

Context mode by --context, of prompts; SASRec has its own. Checked: stage 1's prompts are those of stage 2 without their
soft tokens; vectors of that length disturb the real model little, a filler much; in stage 2 only the mapping has
gradients; what is kept is never worse than stage 1 (tests/baselines/test_collm.py).
"""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from stages.baselines.fitting.settings import Counts, Rates
from stages.baselines.fitting.task import Task
from stages.baselines.language.baseline import Adapted, language
from stages.baselines.language.collaborative import CollaborativeBaseline
from stages.baselines.language.soft import Projector, words
from stages.baselines.language.training import Plan, train, without_dropout
from stages.baselines.sequential.sasrec import WEIGHTS
from stages.common.params import Share

_WIDER = 10


class Settings(Adapted):
    mapping_learning_rate: Rates
    mapping_epochs: Counts
    mapping_weight_decay: Annotated[float, Field(ge=0)]
    mapping_warmup: Share
    mapping_least_rate: Share


class Mapping(nn.Module):
    """The mapping, and whether it is used at all (`used`, 0 or 1)."""

    def __init__(self, features: torch.Tensor, hidden: int, length: float):
        super().__init__()
        size = features.shape[1]
        net = nn.Sequential(nn.Linear(size, _WIDER * size), nn.ReLU(), nn.Linear(_WIDER * size, hidden))
        self.project = Projector(net.to(features.device), features, length)
        self.register_buffer("used", torch.ones((), device=features.device))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.project(features)


class CoLLM(CollaborativeBaseline):
    section, kind, modules, with_users = "collm", Settings, ("q_proj", "v_proj"), True

    def __init__(self, task: Task, model: Path, sasrec: Path):
        super().__init__(task, model, sasrec)
        self.words = {"train": words(self.train, self.layout.size), "valid": words(self.valid, self.layout.size)}

    @property
    def features(self) -> torch.Tensor:
        """SASRec's vectors `(V + 1 + U, D)` of behaviours and of the people in all prompts made so far."""
        return torch.cat([self.items, self.states])

    def build(self, settings: dict[str, Any]) -> None:
        super().build(settings)
        self.projector = Mapping(self.features, self.base.config.hidden_size, self.embedding.mean_norm())

    def learn(self, settings: dict[str, Any]) -> dict[str, Any]:
        text_loss = self.first_stage("CoLLM, words", settings, "", self.words["train"], self.words["valid"])
        self.projector.used.fill_(1)
        with without_dropout(self.model):
            course = train(
                "CoLLM, mapping", self.model, dict(self.projector.named_parameters()), self.train, self.valid,
                Plan.of(settings, self.budget.patience, "mapping_"), self.params.seed,
                before_validation=self.prepare_vectors,
            )
        self.projector.used.fill_(course.best < text_loss)
        return {"text_loss": text_loss, "first_mapping_loss": course.first, "mapping_loss": course.best,
                "step": course.best_step, "steps": course.steps, "mapping_used": course.best < text_loss}

    def visible(self, prompt: list[int]) -> list[int]:
        return prompt if self.projector.used else [token for token in prompt if token < self.layout.size]

    def prepare_vectors(self) -> None:
        if not self.projector.used:  # words alone are read
            self.embedding.source = None
            return
        features = self.features
        self.embedding.source = lambda numbers: self.projector(features[numbers])


STAGE = language("collm", __doc__, CoLLM, {"sasrec": WEIGHTS})

if __name__ == "__main__":
    STAGE.run()
