"""The stage of a baseline trained from nothing: its fit, predictions, counts and weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.torch import save_file

from stages.baselines.fitting.settings import Trained
from stages.baselines.fitting.stage import baseline, latency_ms, predictions_of
from stages.baselines.fitting.task import Task, tuning_counts
from stages.baselines.sequential.training import Fitted, Model, fit, predict, trained_parameters
from stages.common.checksums import seal_folder
from stages.common.files import atomic_folder, write_json
from stages.common.stage import Kind, Stage


def sequential(
    name: str, description: str, fit: Callable[..., Fitted], reads: Mapping[str, Kind] | None = None,
    objectives: Sequence[str] = (), histories: bool = False,
) -> Stage:
    """Arguments as of `baseline`."""
    return baseline(name, description, fit, predictions, write_weights, reads=reads, objectives=objectives,
                    histories=histories)


def tuned(
    task: Task, section: str, kind: type[Trained], title: str, make: Callable[[dict[str, Any]], Model]
) -> Fitted[Model]:
    """The best of a section's settings, each fitted on the task's training windows within the budget."""
    budget, values = task.settings(section, kind)
    return fit(title, make, task.sequences, values, budget, task.seed)


def predictions(fitted: Fitted, task: Task, wanted: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Table `predictions` of the windows `wanted`, and what stands beside it.

    `latency_ms` is the median time of one window by itself, its history turned into numbers included.
    """
    rows = wanted["row"].to_numpy()
    frame = predictions_of(wanted, predict(fitted.model, task.sequences, rows))
    return frame, {
        "layout": None, "context": task.context, "windows": len(frame), "events_dropped": 0,
        "trained_targets": len(task.sequences.train_rows()), "trained_parameters": trained_parameters(fitted.model),
        "latency_ms": latency_ms(lambda row: predict(fitted.model, task.sequences, np.array([row])), rows),
        **tuning_counts(fitted.settings, fitted.trials, fitted.score, fitted.valid_windows), **fitted.facts,
    }


def write_weights(fitted: Fitted, folder: Path) -> None:
    """`model.safetensors` and `settings.json` in `folder` with their checksums, all or none."""
    with atomic_folder(folder) as part:
        state = {name: value.contiguous().cpu() for name, value in fitted.model.state_dict().items()}
        save_file(state, part / "model.safetensors")
        write_json(part / "settings.json", fitted.settings)
        seal_folder(part)
