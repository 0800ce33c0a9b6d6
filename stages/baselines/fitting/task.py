"""What a baseline is fitted on, and what its counts say of how it was tuned."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from stages.baselines.fitting.sequences import Sequences
from stages.baselines.fitting.settings import Budget, Context, Long, read_settings
from stages.common.errors import UserError
from stages.common.params import Section
from stages.windows.tested import tested

Values = TypeVar("Values", bound=Section)


@dataclass
class Task:
    """The log, its windows and vocabulary, all settings, and what a baseline sees: the context, and how much history.

    `params` has the sections of `FitParams`, and those further ones that the baseline reads.
    """

    events: pl.DataFrame
    windows: pl.DataFrame
    vocabulary: pl.DataFrame
    params: Any
    settings_file: Path
    context: Context
    long: bool = False

    @property
    def seed(self) -> int:
        """Of weights, batches and tuning."""
        return self.params.seed

    @cached_property
    def history(self) -> int:
        """Events of history that a window has at most.

        Raises:
            UserError: a long history is shorter than the usual one.
        """
        usual = self.params.windowing.history
        if not self.long:
            return usual
        found = self.settings("long", Long)[1].history
        if found < usual:
            raise UserError(f"{self.settings_file}: long.history: {found}: expected at least windowing.history of "
                            f"params.yaml, {usual}")
        return found

    @cached_property
    def sequences(self) -> Sequences:
        return Sequences(self.events, self.windows, self.vocabulary, self.history, self.params.windowing.history)

    def settings(self, section: str, kind: type[Values]) -> tuple[Budget, Values]:
        """The tuning budget and a baseline's section."""
        return read_settings(self.settings_file, section, kind)

    def tested(self) -> pl.DataFrame:
        """The windows that every baseline predicts: columns `row`, `split` and `behavior`."""
        return tested(self.events, self.windows, self.params.predictions, self.params.data_seed)


def tuning_counts(
    settings: dict[str, Any], trials: Sequence[dict[str, Any]], score: float | None, valid_windows: int
) -> dict[str, Any]:
    """What the counts of every baseline say of its settings, and of the trials and the score that chose them."""
    tuning = {"trials": len(trials), "valid_windows": valid_windows, "score": score, "tried": json.dumps(trials)}
    return {"settings": settings, "tuning": tuning}
