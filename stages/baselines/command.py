"""What the systems' command lines share: paths in, a system fitted, its predictions and what it took out."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import polars as pl
from safetensors.torch import save_file

from stages.baselines.sequences import Sequences
from stages.baselines.settings import Budget, Context, read_settings
from stages.baselines.training import Fitted, predict, trained_parameters
from stages.common import tables
from stages.common.console import console
from stages.common.files import atomic_folder, write_json
from stages.common.inputs import TABLES, read_tables
from stages.common.params import Params, Section, read_params
from stages.events.tested import tested

READ = ("events", "windows", "vocabulary")

_TIMED_WINDOWS = 50
_MILLISECONDS = 1000

Values = TypeVar("Values", bound=Section)


@dataclass
class Task:
    """What a system is fitted on: the log, its windows and vocabulary, all settings, and what it may be told."""

    events: pl.DataFrame
    windows: pl.DataFrame
    vocabulary: pl.DataFrame
    params: Params
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
        """The tuning budget and a system's section.

        Raises:
            UserError: as `read_settings`.
        """
        return read_settings(self.settings_file, section, kind)


def run_system(
    name: str, description: str, fit: Callable[[Task, argparse.Namespace], Fitted], objectives: Sequence[str] = (),
    arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """The main of a system trained from nothing: read, fit, predict all tested windows, write.

    Args:
        name: of its module.
        description: the module's docstring.
        fit: makes the system from the task and the command line.
        objectives: what --objective may be; none for a system that has one only.
        arguments: adds those that a system has besides.
    """
    parser = parser_of(name, description, objectives)
    if arguments:
        arguments(parser)
    args = parser.parse_args()
    params = read_params(args.params)
    task = Task(*read_tables(args, READ), params, args.settings, args.context)
    wanted = tested(task.events, task.windows, params.predictions, params.data_seed)
    fitted = fit(task, args)
    frame, facts = predictions(fitted, task, wanted)
    tables.write(frame, "predictions", args.out)
    if args.weights:
        write_weights(fitted, args.weights)
    write_json(args.metrics, facts)
    console.print(f"{args.out.stem}: {facts['trained_parameters']:,} parameters, validation MRR {fitted.score:.4f}, "
                  f"{facts['latency_ms']:.1f} ms a window")


def predictions(fitted: Fitted, task: Task, wanted: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Table `predictions` of the windows `wanted`, and what stands beside it.

    `latency_ms` is the median time of one window by itself, its history turned into numbers included.
    """
    rows = wanted["row"].to_numpy()
    log_p = predict(fitted.model, task.sequences, rows)
    frame = wanted.with_columns(log_p=pl.Series(values=log_p)).cast(tables.SCHEMAS["predictions"])
    return frame, {
        "layout": None, "context": task.context, "windows": len(frame), "events_dropped": 0,
        "trained_targets": len(task.sequences.train_rows()), "trained_parameters": trained_parameters(fitted.model),
        "fit_seconds": round(fitted.seconds, 1),
        "latency_ms": _latency(fitted, task.sequences, rows), "settings": fitted.settings,
        "tuning": {"trials": len(fitted.trials), "score": fitted.score, "tried": json.dumps(fitted.trials)},
        **fitted.facts,
    }


def write_weights(fitted: Fitted, folder: Path) -> None:
    """`model.safetensors` and `settings.json` in `folder`, both or neither."""
    with atomic_folder(folder) as part:
        state = {name: value.contiguous().cpu() for name, value in fitted.model.state_dict().items()}
        save_file(state, part / "model.safetensors")
        write_json(part / "settings.json", fitted.settings)


def _latency(fitted: Fitted, sequences: Sequences, rows: np.ndarray) -> float:
    seconds = []
    for row in rows[:_TIMED_WINDOWS]:
        began = time.perf_counter()
        predict(fitted.model, sequences, np.array([row]))
        seconds.append(time.perf_counter() - began)
    return _MILLISECONDS * statistics.median(seconds)


def parser_of(name: str, description: str, objectives: Sequence[str]) -> argparse.ArgumentParser:
    """Of a system's command line; the arguments are those of `run_system`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.baselines.{name}", description=description,
        epilog="`python -m stages.evaluate` makes metrics of the table that it writes, as of every model's.",
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the settings (default: %(default)s)")
    parser.add_argument("--settings", type=Path, default=Path("stages/baselines/params.yaml"),
                        help="what systems are tuned over (default: %(default)s)")
    for table in READ:
        parser.add_argument(f"--{table}", type=Path, required=True, help=f"table: {TABLES[table]}")
    parser.add_argument("--context", choices=get_args(Context), required=True,
                        help="what it is told: behaviours alone, each event's time and place too, or the next one's as well")
    if objectives:
        parser.add_argument("--objective", choices=objectives, required=True, help="what it is trained by")
    parser.add_argument("--out", type=Path, required=True, help="file for the table of predictions")
    parser.add_argument("--weights", type=Path, help="folder for the weights, if they are wanted")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for what it was tuned to and took")
    return parser
