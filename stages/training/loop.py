"""The loop of training: steps in rounds, a validation after each, early stopping, and the best weights kept.

Baselines are trained by `train`. SFT and DPO run on TRL's loop (trainer.py), with the same rate and early stopping.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


def warmup_cosine(step: int, steps: int, warmup: float, least: float) -> float:
    """Share of the peak rate at step `step` of `steps`, the first being 0.

    It rises from `least` over the share `warmup` of the steps, then falls to `least` in a cosine.
    """
    rising = math.ceil(steps * warmup)
    if step < rising:
        return least + (1 - least) * step / rising
    progress = min(1.0, (step - rising) / max(1, steps - rising))
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Validations:
    """What was found on validation data, by the number of optimizer steps taken before; it decides when training ends.

    The best is the earliest among equals, and a number. Step 0 takes part where there is one: training that only makes
    things worse keeps nothing.
    """

    patience: int
    greater_is_better: bool = False
    values: dict[int, float] = field(default_factory=dict)

    def add(self, step: int, value: float) -> bool:
        """Whether it is the best so far; one that is repeated after a resume counts once, and is not."""
        new = step not in self.values
        self.values.setdefault(step, value)
        return new and not math.isnan(value) and self.best_step == step

    def exhausted(self, step: int) -> bool:
        """Whether patience is out at `step`: so many validations after the best one were no better."""
        return sum(self.best_step < each <= step for each in self.values) >= self.patience

    @property
    def best_step(self) -> int:
        """0 while there is no number."""
        sign = -1 if self.greater_is_better else 1
        known = (step for step, value in self.values.items() if not math.isnan(value))
        return min(known, key=lambda step: (sign * self.values[step], step), default=0)

    @property
    def first(self) -> float:
        return self.values[min(self.values)]

    @property
    def best(self) -> float:
        return self.values.get(self.best_step, math.nan)

    @property
    def steps(self) -> int:
        """Optimizer steps before the last validation, which is at the end of training."""
        return max(self.values)


def train(
    rounds: Iterable[Iterable[Any]], losses: Callable[[Any], Iterable[torch.Tensor]], weights: Iterable[nn.Parameter],
    optimizer: torch.optim.Optimizer, rate: Callable[[int], float], largest_gradient: float,
    validate: Callable[[], float], validations: Validations, state: Callable[[], Mapping[str, torch.Tensor]],
    validate_first: bool = False, after_step: Callable[[torch.Tensor], None] = lambda loss: None,
) -> None:
    """Train until the rounds end or patience is out; `state` ends as at the best validation.

    Args:
        rounds: each the batches between two validations.
        losses: the parts of a batch's mean loss, one for each forward pass; their gradients add up.
        weights: what the optimizer trains; their gradient's norm is at most `largest_gradient`.
        rate: share of the peak rate at a step, the first being 0.
        validate: the value of the model as it is, which goes to `validations`; before the first step too
            (`validate_first`).
        state: what is kept of the best, by name.
        after_step: gets the step's loss.
    """
    weights, schedule = list(weights), torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    step, kept = 0, {}

    def goes_on() -> bool:
        if validations.add(step, validate()):
            kept.update(copied(state()))
        return not validations.exhausted(step)

    if not validate_first or goes_on():
        for batches in rounds:
            for batch in batches:
                total = torch.zeros((), device=weights[0].device)
                for loss in losses(batch):
                    if loss.requires_grad:  # a batch may hold nothing that trains
                        loss.backward()
                    total += loss.detach()
                nn.utils.clip_grad_norm_(weights, largest_gradient)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                schedule.step()
                step += 1
                after_step(total)
            if not goes_on():
                break
    if kept:
        restore(state(), kept)


def copied(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values apart, which training does not change."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in values.items()}


@torch.no_grad()
def restore(weights: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]) -> None:
    """Put values back into weights of the same names."""
    for name, weight in weights.items():
        weight.copy_(kept[name])
