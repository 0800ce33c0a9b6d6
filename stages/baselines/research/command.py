"""What the research commands share: options, the tables of `dvc repro windowing`, people drawn, and early stopping."""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from torch import nn

from stages.common import tables
from stages.common.console import track
from stages.common.draws import stream
from stages.common.errors import UserError
from stages.common.params import PARAMS

READ = ("events", "windows", "vocabulary")


def parser_of(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m stages.baselines.research.{name}", description=description,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def add_log(parser: argparse.ArgumentParser) -> None:
    """The options that `read_log` and --params need."""
    parser.add_argument("--params", type=Path, default=PARAMS, help="the settings (default: %(default)s)")
    for table in READ:
        parser.add_argument(f"--{table}", type=Path, default=Path(f"data/{table}.parquet"),
                            help=f"table: {tables.CONTENT[table]} (default: %(default)s)")


def read_log(args: argparse.Namespace) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Events, windows and vocabulary."""
    events, windows, vocabulary = (tables.read(table, getattr(args, table)) for table in READ)
    return events, windows, vocabulary


def of_users(events: pl.DataFrame, windows: pl.DataFrame, most: int | None) -> pl.DataFrame:
    """`windows` without the training windows of all but `most` training users, a draw that holds smaller draws."""
    user, train = events["user"].to_numpy()[windows["row"].to_numpy()], (windows["split"] == "train").to_numpy()
    drawn = stream(0, "research users").permutation(np.unique(user[train]))[:most]
    return windows.filter(pl.Series(~train | np.isin(user, drawn)))


def train(
    title: str, model: nn.Module, epochs: int, patience: int, one_epoch: Callable[[int], None],
    validate: Callable[[], float],
) -> int:
    """Train until validation no longer rises; the model ends as at its best epoch, whose number, 1 and up, is returned.

    Raises:
        UserError: no validation gave a number.
    """
    best, best_epoch, weights = float("-inf"), 0, {}
    with track(f"{title}, epochs", epochs) as progress:
        for epoch in range(1, epochs + 1):
            one_epoch(epoch)
            score = validate()
            progress.advance(1, f"{score:.4f}")
            if score > best:
                best, best_epoch, weights = score, epoch, copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= patience:
                break
    if not weights:
        raise UserError(f"{title}: its scores are no numbers")
    model.load_state_dict(weights)
    return best_epoch
