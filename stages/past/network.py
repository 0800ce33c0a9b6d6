"""The network of habits: what a candidate's numbers are worth, and what the moment is worth to each behaviour.

A conditional logit (McFadden 1974): each candidate has a utility, made of numbers of its own by one function for all,
and probabilities are the softmax over a window's candidates. The function is linear with a small network beside it.
Where a candidate is in the vocabulary its own linear model of the moment is added, of low rank where the vocabulary is
large (a multinomial logit; with the ages of what was done before it can learn what follows from what, and when).

This is the network in training; `stages.past.weights` computes the same with the weights that it left.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stages.past.weights import Inputs, Weights

_LARGEST_RANK = 64


@dataclass(frozen=True)
class Batch:
    """`stages.past.weights.Inputs` of B windows, as tensors."""

    numbers: torch.Tensor
    moments: torch.Tensor
    allowed: torch.Tensor
    outside: torch.Tensor
    label: torch.Tensor

    @classmethod
    def of(cls, inputs: Inputs) -> "Batch":
        arrays = (inputs.numbers, inputs.moments, inputs.allowed, inputs.outside, inputs.label.astype(np.int64))
        return cls(*(torch.from_numpy(np.array(array)) for array in arrays))

    def __getitem__(self, windows: torch.Tensor | slice) -> "Batch":
        return Batch(self.numbers[windows], self.moments[windows], self.allowed[windows], self.outside[windows],
                     self.label[windows])

    def __len__(self) -> int:
        return len(self.label)


class Network(nn.Module):
    """Utilities of candidates, see above.

    Args:
        features: numbers of a candidate, F.
        moments: values of the moment, all columns together.
        size: V.
        hidden: width of the small network.
    """

    def __init__(self, features: int, moments: int, size: int, hidden: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.linear = nn.Linear(features, 1, bias=False)
        self.network = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                                     nn.Linear(hidden, 1, bias=False))
        nn.init.zeros_(self.network[-1].weight)
        rank = min(size, _LARGEST_RANK)
        self.moment = nn.EmbeddingBag(moments, rank, mode="sum")
        nn.init.normal_(self.moment.weight, std=0.02)
        self.behavior = nn.Linear(rank, size)

    def standardise(self, numbers: torch.Tensor) -> None:
        """Take mean and scale from a sample of numbers `(B, C, F)`."""
        self.mean.copy_(numbers.mean((0, 1)))
        self.scale.copy_(numbers.std((0, 1)).clamp_min(1e-3))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Log-probabilities `(B, C)`, -inf where a candidate is not the window's."""
        x = (batch.numbers.float() - self.mean) / self.scale
        utility = (self.linear(x) + self.network(x))[..., 0]
        own = self.behavior(self.moment(batch.moments))
        spare = utility.shape[1] - own.shape[1]
        utility = utility + nn.functional.pad(own, (0, spare)).masked_fill(batch.outside, 0)
        return utility.masked_fill(~batch.allowed, -torch.inf).log_softmax(dim=1)

    def groups(self, decay: float, moment_decay: float, rate: float, moment_rate: float) -> list[dict]:
        """For the optimizer: what is of numbers, and what is of moments, which would learn its windows by heart."""
        of_moment = [*self.moment.parameters(), *self.behavior.parameters()]
        of_numbers = [*self.linear.parameters(), *self.network.parameters()]
        return [{"params": of_numbers, "weight_decay": decay, "lr": rate},
                {"params": of_moment, "weight_decay": moment_decay, "lr": moment_rate}]

    def weights(self) -> Weights:
        """What was learned, to be asked without PyTorch."""
        return Weights({name: value.numpy(force=True).copy() for name, value in self.state_dict().items()})
