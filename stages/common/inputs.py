"""What the command lines of the stages share: the paths that a stage takes, and the reading of its tables."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from stages.common import tables as formats

TABLES = {
    "events": "the log, an event a row (from stage ingest)",
    "windows": "which events are targets, and their splits (from stage windowing)",
    "vocabulary": "the candidate behaviours and their groups (from stage windowing)",
    "conversations": "conversations of the auxiliary task (from stage auxiliary)",
    "predictions": "log-probabilities of the test and validation windows under one model (from stage predictions)",
    "pairs": "preference pairs (from stage selection)",
}

_EPILOG = (
    "`dvc repro` runs this stage with the paths that stand in dvc.yaml, after the stages that it needs; settings are "
    "keys of params.yaml."
)


def stage_parser(stage: str, description: str, tables: Sequence[str], model: str, out: str) -> argparse.ArgumentParser:
    """A parser with --params, a path for each of `tables`, --model, --out and --metrics.

    Args:
        stage: its name, as in `python -m stages.<name>`.
        description: the module's docstring.
        tables: names among `TABLES`.
        model: help of --model.
        out: help of --out.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=description, epilog=_EPILOG)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"),
                        help="the settings (default: %(default)s)")
    for name in tables:
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"table: {TABLES[name]}")
    parser.add_argument("--model", type=Path, required=True, help=model)
    parser.add_argument("--out", type=Path, required=True, help=out)
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for what was counted or reached")
    return parser


def add_training_options(parser: argparse.ArgumentParser, micro_batch: int, samples: str) -> None:
    """Add --history and --micro-batch; `samples` is what a batch is made of."""
    parser.add_argument("--history", type=Path, required=True, help="CSV with one row a logged step")
    parser.add_argument("--micro-batch", type=at_least_1, default=micro_batch, metavar="N",
                        help=f"most {samples} in one forward pass: speed and memory only (default: %(default)s)")


def read_tables(args: argparse.Namespace, tables: Sequence[str]) -> list[pl.DataFrame]:
    """The tables whose paths `args` holds, in the order of their names.

    Raises:
        UserError: a file is absent or not that table.
    """
    return [formats.read(name, getattr(args, name)) for name in tables]


def at_least_1(text: str) -> int:
    """Type of an option that is a whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of 1 or more is needed")
    return number
