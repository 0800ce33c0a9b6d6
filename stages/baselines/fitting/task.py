"""What a baseline is fitted on, and what its counts say of how it was tuned."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from stages.baselines.fitting.sequences import Sequences
from stages.baselines.fitting.settings import Budget, Context, FitParams, read_settings
from stages.common.params import Section
from stages.windows.tested import tested

Values = TypeVar("Values", bound=Section)


@dataclass
class Task:
    """The log, its windows and vocabulary, all settings, and the context that a baseline sees."""

    events: pl.DataFrame
    windows: pl.DataFrame
    vocabulary: pl.DataFrame
    params: FitParams
    settings_file: Path
    context: Context

    @property
    def seed(self) -> int:
        """Of weights, batches and tuning."""
        return self.params.seed

    @cached_property
    def sequences(self) -> Sequences:
        return Sequences(self.events, self.windows, self.vocabulary, self.params.windowing.history)

    def settings(self, section: str, kind: type[Values]) -> tuple[Budget, Values]:
        """The tuning budget and a baseline's section.

        Raises:
            UserError: as `read_settings`.
        """
        return read_settings(self.settings_file, section, kind)

    def tested(self) -> pl.DataFrame:
        """The windows that every baseline predicts: columns `row`, `split` and `behavior`.

        Raises:
            UserError: there is no test window, or no validation window.
        """
        return tested(self.events, self.windows, self.params.predictions, self.params.data_seed)


def tuning_counts(
    settings: dict[str, Any], trials: Sequence[dict[str, Any]], score: float | None, valid_windows: int
) -> dict[str, Any]:
    """What the counts of every baseline say of how it was tuned.

    Args:
        settings: its own.
        trials: every setting tried, and how it did; none for a baseline that is not tuned.
        score: by which the best was chosen.
        valid_windows: how many validation windows the score is of.
    """
    tried = json.dumps(trials)
    return {"settings": settings,
            "tuning": {"trials": len(trials), "valid_windows": valid_windows, "score": score, "tried": tried}}
