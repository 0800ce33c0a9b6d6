"""`stages/baselines/params.yaml`: what each system may be tuned over, and how much tuning every one of them gets."""

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.common.errors import UserError
from stages.common.params import Count, Positive, Rate, Section

Context = Literal["id", "history", "next"]

Values = TypeVar("Values", bound=Section)


class Budget(Section):
    """The tuning of every system: settings tried, and the validation windows that choose among them."""

    trials: Positive
    valid_windows: Positive
    patience: Positive


class Trained(Section):
    """What all systems trained from nothing are tuned over; each key holds the values to try, the default first."""

    learning_rate: Annotated[list[Rate], Field(min_length=1)]
    dropout: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=1)]
    weight_decay: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]
    batch_size: Annotated[list[Positive], Field(min_length=1)]
    epochs: Annotated[list[Positive], Field(min_length=1)]
    warmup: Annotated[list[Count], Field(min_length=1)]
    """Steps in which the rate rises from 0."""


def read_settings(path: Path, section: str, kind: type[Values]) -> tuple[Budget, Values]:
    """The budget and one system's section.

    Raises:
        UserError: the file is absent or no YAML; a key is unknown, missing or out of its range; all faults are named.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the repository's root") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    found = []
    for name, model in (("budget", Budget), (section, kind)):
        if not isinstance(content, dict) or name not in content:
            raise UserError(f"{path}: {name}: missing")
        try:
            found.append(model.model_validate(content[name]))
        except ValidationError as error:
            faults = [f"{name}.{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
                      for fault in error.errors()]
            raise UserError(f"{path}: " + "\n".join(faults)) from None
    return found[0], found[1]


def choices(values: Section, trials: int, seed: int) -> list[dict[str, Any]]:
    """At most `trials` different settings: first the default, each key's first value, then a seeded draw of the others."""
    lists = {name: value for name, value in values if isinstance(value, list)}
    fixed = {name: value for name, value in values if not isinstance(value, list)}
    every = [fixed | dict(zip(lists, each, strict=True)) for each in itertools.product(*lists.values())]
    others = np.random.default_rng(seed).permutation(len(every) - 1)[: trials - 1] + 1
    return [every[0], *(every[i] for i in others)]
