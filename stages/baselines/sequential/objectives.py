"""The two objectives of sequential baselines over scores of all V behaviours, and causal models that learn by either.

`bce`, the one that SASRec was published with, holds each label against one negative; `ce` is the full softmax.
"""

from abc import abstractmethod
from typing import Literal, get_args

import torch
from torch.nn import functional as F

from stages.baselines.fitting.sequences import NO_LABEL, Batch
from stages.baselines.sequential.training import Recommender

Objective = Literal["bce", "ce"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


def cross_entropy(scores: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Mean softmax cross-entropy of `scores` `(…, V)` where `label` is not `NO_LABEL`."""
    return F.cross_entropy(scores.flatten(0, -2), label.flatten(), ignore_index=NO_LABEL)


def binary_cross_entropy(scores: torch.Tensor, label: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """SASRec's objective: each label against one negative, uniform over the V − 1 other behaviours.

    Not over what the history lacks, as some implementations draw: behaviours repeat, and a behaviour that is never a
    negative is never ranked. With this draw the best score is log p − log(1 − p) and a constant, which ranks as p does.
    """
    known = label != NO_LABEL
    scores, label = scores[known], label[known]
    size = scores.shape[-1]
    shift = torch.randint(1, size, label.shape, generator=generator).to(label.device)
    pair = scores.gather(-1, torch.stack([label, (label + shift) % size], dim=-1))
    return F.softplus(-pair[:, 0]).mean() + F.softplus(pair[:, 1]).mean()


class Causal(Recommender):
    """Scores at a position depend on the events up to it and on no later one: learned at all, read at the last."""

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
