"""The two objectives of sequential recommenders, over scores of all V behaviours."""

import torch
from torch.nn import functional as F

from stages.baselines.sequential.sequences import NO_LABEL


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
