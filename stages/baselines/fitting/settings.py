"""`stages/baselines/params.yaml`: what each baseline may be tuned over, and how much tuning every one gets."""

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, Field

from stages.common.errors import UserError
from stages.common.params import Count, Positive, Rate, Section, Seed, checked, read_yaml
from stages.windows.settings import Predictions, Windowing

Context = Literal["id", "history", "next"]

Values = TypeVar("Values", bound=Section)
Value = TypeVar("Value")


def _once_each(values: list[Value]) -> list[Value]:
    if again := sorted({repr(value) for value in values if values.count(value) > 1}):
        raise ValueError(f"holds {', '.join(again)} more than once; each value to try once, the default first")
    return values


Tried = Annotated[list[Value], Field(min_length=1), AfterValidator(_once_each)]
"""Values to try, the default first; none twice, or two of the settings tried might be the same."""
Rates = Tried[Rate]
Counts = Tried[Positive]
Dropouts = Tried[Annotated[float, Field(ge=0, lt=1)]]


class FitParams(Section):
    """The sections of params.yaml that every baseline follows from."""

    seed: Seed
    data_seed: Seed
    windowing: Windowing
    predictions: Predictions


class Budget(Section):
    """The tuning of every baseline: settings tried, the validation windows that choose among them, and when it ends."""

    trials: Positive
    valid_windows: Positive
    patience: Positive
    windows_per_validation: Positive


class Long(Section):
    """What baselines see that are told a long history."""

    history: Positive
    """Events, in place of windowing.history."""


class Trained(Section):
    """What all baselines trained from nothing are tuned over."""

    learning_rate: Rates
    dropout: Dropouts
    weight_decay: Tried[Annotated[float, Field(ge=0)]]
    batch_size: Counts
    epochs: Counts
    """Validations, at most; a pass over the log lies between two of them, or several (`windows_per_validation`)."""
    warmup: Tried[Count]
    """Steps in which the rate rises from 0."""


class Transformer(Trained):
    """What those are that have a transformer's body of any size."""

    dimensions: Counts
    blocks: Counts
    heads: Counts


def read_settings(path: Path, section: str, kind: type[Values]) -> tuple[Budget, Values]:
    """The budget and one baseline's section.

    Raises:
        UserError: the file is absent or no YAML; a key is unknown, missing or out of its range; all faults are named.
    """
    content = read_yaml(path)
    for name in ("budget", section):
        if not isinstance(content, dict) or name not in content:
            raise UserError(f"{path}: {name}: missing")
    return checked(content["budget"], Budget, path, "budget"), checked(content[section], kind, path, section)


def choices(values: Section, trials: int, seed: int) -> list[dict[str, Any]]:
    """At most `trials` different settings: the default, each key's first value, then a seeded draw of the others."""
    lists = {name: value for name, value in values if isinstance(value, list)}
    fixed = {name: value for name, value in values if not isinstance(value, list)}
    every = [fixed | dict(zip(lists, each, strict=True)) for each in itertools.product(*lists.values())]
    others = np.random.default_rng(seed).permutation(len(every) - 1)[: trials - 1] + 1
    return [every[0], *(every[i] for i in others)]
