"""What the command lines of all rows share: paths in, something fitted, its predictions and what it took out."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import polars as pl
from safetensors.torch import save_file

from stages.baselines.fitting.latency import latency_ms
from stages.baselines.fitting.settings import Budget, Context, FitParams, read_settings
from stages.baselines.sequential.sequences import Sequences
from stages.baselines.sequential.training import Fitted, predict, trained_parameters
from stages.common import tables
from stages.common.console import console
from stages.common.files import atomic_folder, write_json
from stages.common.params import Section, read_params
from stages.windows.tested import tested

READ = ("events", "windows", "vocabulary")

Options = Callable[[argparse.ArgumentParser], None]
"""Adds to a command line what only this row's has."""

Values = TypeVar("Values", bound=Section)
System = TypeVar("System")


@dataclass
class Task:
    """What a system is fitted on: the log, its windows and vocabulary, all settings, and what it may be told."""

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
        """The tuning budget and a system's section.

        Raises:
            UserError: as `read_settings`.
        """
        return read_settings(self.settings_file, section, kind)

    def tested(self) -> pl.DataFrame:
        """The windows that every row predicts: columns `row`, `split` and `behavior`.

        Raises:
            UserError: there is no test window, or no validation window.
        """
        return tested(self.events, self.windows, self.params.predictions, self.params.data_seed)


def run_system(
    name: str, description: str, fit: Callable[[Task, argparse.Namespace], Fitted], objectives: Sequence[str] = (),
    options: Options = lambda parser: None,
) -> None:
    """The main of a system trained from nothing: read, fit, predict all tested windows, write.

    Args:
        name: of its module.
        description: the module's docstring.
        fit: makes the system from the task and the command line.
        objectives: what --objective may be; none for a system that has one only.
        options: adds what only this system's command line has.
    """
    parser = parser_of(name, description)
    if objectives:
        parser.add_argument("--objective", choices=objectives, required=True, help="what it is trained by")
    options(parser)
    run_with(parser, fit, predictions, write_weights)


def run_with(
    parser: argparse.ArgumentParser, fit: Callable[[Task, argparse.Namespace], System],
    predictions: Callable[[System, Task, pl.DataFrame], tuple[pl.DataFrame, dict[str, Any]]],
    write: Callable[[System, Path], None],
) -> None:
    """The main of every row that is fitted; `fit_seconds` of its metrics is all that `fit` took.

    Args:
        parser: as `parser_of` makes it; --weights is added here.
        fit: what is fitted, from the task and the command line.
        predictions: its table of the windows given, and what stands beside it.
        write: puts its weights into a folder.
    """
    parser.add_argument("--weights", type=Path, help="folder for the weights, if they are wanted")
    args = parser.parse_args()
    task = task_of(args)
    wanted = task.tested()  # before hours of training: there may be none
    began = time.monotonic()
    fitted = fit(task, args)
    seconds = time.monotonic() - began
    frame, facts = predictions(fitted, task, wanted)
    tables.write(frame, "predictions", args.out)
    if args.weights:
        write(fitted, args.weights)
    write_json(args.metrics, facts | {"fit_seconds": round(seconds, 1)})
    console.print(f"{args.out.stem}: {facts['trained_parameters']:,} parameters, validation MRR "
                  f"{facts['tuning']['score']:.4f}, {facts['latency_ms']:.1f} ms a window")


def predictions(fitted: Fitted, task: Task, wanted: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Table `predictions` of the windows `wanted`, and what stands beside it.

    `latency_ms` is the median time of one window by itself, its history turned into numbers included.
    """
    rows = wanted["row"].to_numpy()
    frame = table_of(wanted, predict(fitted.model, task.sequences, rows))
    return frame, {
        "layout": None, "context": task.context, "windows": len(frame), "events_dropped": 0,
        "trained_targets": len(task.sequences.train_rows()), "trained_parameters": trained_parameters(fitted.model),
        "latency_ms": latency_ms(lambda row: predict(fitted.model, task.sequences, np.array([row])), rows),
        **tuning_facts(fitted.settings, fitted.trials, fitted.score, fitted.valid_windows),
        **fitted.facts,
    }


def table_of(wanted: pl.DataFrame, log_p: np.ndarray) -> pl.DataFrame:
    """Table `predictions` of the windows `wanted` with their log-probabilities `(N, V)`."""
    return wanted.with_columns(log_p=pl.Series(values=log_p)).cast(tables.SCHEMAS["predictions"])


def tuning_facts(
    settings: dict[str, Any], trials: Sequence[dict[str, Any]], score: float | None, valid_windows: int
) -> dict[str, Any]:
    """What the metrics of every row say of how it was tuned.

    Args:
        settings: its own.
        trials: every setting tried, and how it did; none for a row that is not tuned.
        score: by which the best was chosen.
        valid_windows: how many validation windows the score is of.
    """
    return {
        "settings": settings,
        "tuning": {"trials": len(trials), "valid_windows": valid_windows, "score": score, "tried": json.dumps(trials)},
    }


def write_weights(fitted: Fitted, folder: Path) -> None:
    """`model.safetensors` and `settings.json` in `folder`, both or neither."""
    with atomic_folder(folder) as part:
        state = {name: value.contiguous().cpu() for name, value in fitted.model.state_dict().items()}
        save_file(state, part / "model.safetensors")
        write_json(part / "settings.json", fitted.settings)


def parser_of(name: str, description: str, params: type[Section] = FitParams) -> argparse.ArgumentParser:
    """Of a row's command line, with what all rows have; `task_of` reads it.

    Args:
        name: of its module.
        description: the module's docstring.
        params: the sections of params.yaml that it reads.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.baselines.{'api' if name == 'api' else f'systems.{name}'}", description=description,
        epilog="`dvc repro stages/baselines/dvc.yaml` runs every system with the paths that stand in that file.",
    )
    parser.set_defaults(kind=params)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the settings (default: %(default)s)")
    parser.add_argument("--settings", type=Path, default=Path("stages/baselines/params.yaml"),
                        help="what rows are tuned over, a section each (default: %(default)s)")
    for table in READ:
        parser.add_argument(f"--{table}", type=Path, required=True, help=f"table: {tables.CONTENT[table]}")
    parser.add_argument("--context", choices=get_args(Context), required=True,
                        help="what it is told: behaviours alone, each event's time and place too, or the next one's as "
                        "well")
    parser.add_argument("--out", type=Path, required=True, help="file for the table of predictions")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for what it was tuned to and took")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model, for rows that a language model is part of or reads names for."""
    parser.add_argument("--model", type=Path, required=True,
                        help="folder with base.json of the language model (from stage base)")


def task_of(args: argparse.Namespace) -> Task:
    """What the command line says; `args` are of `parser_of`.

    Raises:
        UserError: a file is absent or faulty.
    """
    params = read_params(args.kind, args.params)
    return Task(*(tables.read(table, getattr(args, table)) for table in READ), params, args.settings, args.context)
