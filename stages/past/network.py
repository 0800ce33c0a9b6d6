"""The network of habits: what a candidate's numbers are worth, and what the moment is worth to each behaviour.

A conditional logit (McFadden 1974): each candidate has a utility, made of numbers of its own by one function for all,
and probabilities are the softmax over a window's candidates. The function is linear with a small network beside it.
Where a candidate is in the vocabulary its own linear model of the moment is added, of low rank where the vocabulary is
large (a multinomial logit; with the ages of what was done before it can learn what follows from what, and when).

This is the network in training; `stages.past.weights` computes the same with the weights that it left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.past.weights import Inputs, Weights

_LARGEST_RANK = 64


class Sums(torch.autograd.Function):
    """`embedding_bag` with sums; its gradient as one product, which takes a third of the time of PyTorch's sorting."""

    @staticmethod
    def forward(ctx: Any, number: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(number)
        ctx.size = len(weight)
        return nn.functional.embedding_bag(number, weight, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:
        number, = ctx.saved_tensors
        # no number stands twice in a row: each column has numbers of its own
        chosen = torch.zeros(len(number), ctx.size).scatter_(1, number.long(), 1.0)
        return None, chosen.t() @ gradient


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
        return cls(*(torch.from_numpy(np.require(array, requirements=["C", "W"])) for array in arrays))

    @classmethod
    def empty(cls, windows: int, candidates: int, features: int, moments: int) -> "Batch":
        """Room for so many windows, their numbers as half floats."""
        cells = (windows, candidates)
        return cls(torch.empty(*cells, features, dtype=torch.half), torch.empty(windows, moments, dtype=torch.int32),
                   torch.empty(cells, dtype=torch.bool), torch.empty(cells, dtype=torch.bool),
                   torch.empty(windows, dtype=torch.int64))

    def put(self, windows: slice, inputs: Inputs) -> None:
        """Fill the room of these windows; candidates for which there is none are left out."""
        part = Batch.of(inputs)
        for name in self.__dataclass_fields__:
            room, given = getattr(self, name)[windows], getattr(part, name)
            room.copy_(given[:, : room.shape[1]] if room.dim() > 1 else given)

    def of_windows(self, windows: torch.Tensor) -> "Batch":
        """These windows alone."""
        return Batch(*(getattr(self, name).index_select(0, windows) for name in self.__dataclass_fields__))

    def parts(self, cells: int) -> Iterator["Batch"]:
        """The same windows, some at a time: at most so many cells of a window and a candidate, or one window."""
        windows = max(1, cells // self.allowed.shape[1])
        values = [getattr(self, name).split(windows) for name in self.__dataclass_fields__]
        return (Batch(*part) for part in zip(*values, strict=True))

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
        self.moment = nn.EmbeddingBag(moments, rank, mode="sum")  # asked by `Sums`
        nn.init.normal_(self.moment.weight, std=0.02)
        self.behavior = nn.Linear(rank, size)

    def standardise(self, numbers: torch.Tensor) -> None:
        """Take mean and scale from a sample of numbers `(B, C, F)`."""
        self.mean.copy_(numbers.mean((0, 1)))
        self.scale.copy_(numbers.std((0, 1)).clamp_min(1e-3))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Log-probabilities `(B, C)`, -inf where a candidate is not the window's."""
        utility = self._of_numbers(batch.numbers)
        own = self.behavior(Sums.apply(batch.moments, self.moment.weight))
        spare = utility.shape[1] - own.shape[1]
        utility = utility + nn.functional.pad(own, (0, spare)).masked_fill(batch.outside, 0)
        return utility.masked_fill(~batch.allowed, -torch.inf).log_softmax(dim=1)

    def _of_numbers(self, numbers: torch.Tensor) -> torch.Tensor:
        """What the numbers `(B, C, F)` are worth `(B, C)`.

        The same as `linear` and `network` of the standardised numbers, in a third fewer passes over memory, which is
        where the time goes: (x - mean) / scale is part of the first layers, and nothing is kept that gradients do
        without.
        """
        x = numbers.float().flatten(0, 1)
        first, second, last = self.network[0], self.network[2], self.network[4]
        weight, alone = first.weight / self.scale, self.linear.weight[0] / self.scale
        hidden = nn.functional.linear(x, weight, first.bias - weight @ self.mean).relu_()
        hidden = nn.functional.linear(hidden, second.weight, second.bias).relu_()
        utility = torch.mv(hidden, last.weight[0]) + torch.mv(x, alone) - alone @ self.mean
        return utility.view(numbers.shape[:2])

    def groups(self, decay: float, moment_decay: float, rate: float, moment_rate: float) -> list[dict]:
        """For the optimizer: what is of numbers, and what is of moments, which would learn its windows by heart."""
        of_moment = [*self.moment.parameters(), *self.behavior.parameters()]
        of_numbers = [*self.linear.parameters(), *self.network.parameters()]
        return [{"params": of_numbers, "weight_decay": decay, "lr": rate},
                {"params": of_moment, "weight_decay": moment_decay, "lr": moment_rate}]

    def weights(self) -> Weights:
        """What was learned, to be asked without PyTorch."""
        return Weights({name: value.numpy(force=True).copy() for name, value in self.state_dict().items()})
