"""What causal systems share: scores of what follows every event, learned at all positions, asked for at the last.

Objectives: `bce`, the one that SASRec was published with, weighs each label against one negative; `ce` is the full
softmax.
"""

from abc import abstractmethod
from typing import Literal

import torch

from stages.baselines.sequential.losses import binary_cross_entropy, cross_entropy
from stages.baselines.sequential.sequences import Batch
from stages.baselines.sequential.training import Recommender

Objective = Literal["bce", "ce"]
OBJECTIVES = ("bce", "ce")


class Causal(Recommender):
    """A system whose scores at a position depend on the events up to it and on no later one."""

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective = objective

    @abstractmethod
    def forward(self, batch: Batch) -> torch.Tensor:
        """Scores `(B, T, V)` of what follows each event."""

    def loss(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        scores = self(batch)
        if self.objective == "bce":
            return binary_cross_entropy(scores, batch.label, generator)
        return cross_entropy(scores, batch.label)

    def log_p(self, batch: Batch) -> torch.Tensor:
        return self(batch)[:, -1].log_softmax(dim=-1)
