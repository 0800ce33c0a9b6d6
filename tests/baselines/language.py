"""A small task for baselines made of the tiny model: a log in which the next behaviour follows from the last."""

from pathlib import Path
from typing import Any

import polars as pl
import torch
from ruamel.yaml import YAML

from stages.baselines.fitting.settings import choices
from stages.baselines.fitting.task import Task
from stages.baselines.language.baseline import LanguageBaseline
from stages.baselines.sequential.sasrec import SASRec
from stages.baselines.sequential.stage import write_weights
from stages.baselines.sequential.training import Fitted
from tests.small_log import BEHAVIORS, all_behaviors, small_log, small_params, small_windows

SPLITS = ["train"] * 5 + ["valid", "natural"]
ADAPTED = {"learning_rate": [0.03], "epochs": [1], "dropout": [0.0], "rank": 4, "alpha": 8, "batch_size": 2,
           "weight_decay": 0.0, "warmup": 0.1, "least_rate": 0.01, "validations": 2}


def small_task(folder: Path, section: str, settings: dict, trials: int = 1, context: str = "next",
               valid_windows: int = 30, **changes) -> Task:
    """Of a log in which each behaviour follows the one before it in the vocabulary, in turn."""
    events = small_log([33] * len(SPLITS))
    turn = [BEHAVIORS[row % len(BEHAVIORS)] for row in range(len(events))]
    events = events.with_columns(behavior=pl.Series(turn))
    file = folder / "settings.yaml"
    with open(file, "w") as out:
        budget = {"trials": trials, "valid_windows": valid_windows, "patience": 5, "windows_per_validation": 1}
        names = {"encoder": "base", "revision": ""}
        YAML().dump({"budget": budget, section: settings, "names": names}, out)
    params = small_params(**({"instructions__train_targets": 120, "instructions__valid_targets": 24} | changes))
    return Task(events, small_windows(events, SPLITS), all_behaviors(), params, file, context)


def settings_of(baseline: LanguageBaseline) -> dict[str, Any]:
    """The default of what it is tuned over."""
    return choices(baseline.values, 1, 0)[0]


def a_sasrec(task: Task, folder: Path, context: str = "next", seed: int = 0) -> Path:
    """A folder as `sasrec --weights` writes it, untrained, its behaviours far apart."""
    settings = {"dimensions": 8, "blocks": 1, "heads": 1, "dropout": 0.0}
    torch.manual_seed(seed)
    model = SASRec(task.sequences, settings, context, "ce")
    torch.nn.init.normal_(model.embedder.behaviors.weight)
    write_weights(Fitted(model, settings, 0.0, [], 0), folder)
    return folder
