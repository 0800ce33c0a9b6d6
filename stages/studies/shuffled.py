"""A negative control: the log with its behaviours dealt out anew among all events, so that only frequencies are left.

    python -m stages.studies.shuffled && dvc add data/raw/shuffled.parquet && git add data/raw/shuffled.parquet.dvc
    python -m stages.study table4 --setting shuffled

Every gain of one row over another must vanish there, but for what logit adjustment and balanced samples do to a model
that knows nothing: they trade the frequent behaviours' hits for the rare ones'.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.console import console
from stages.common.errors import run
from stages.common.files import atomic_file


def shuffled(events: pl.DataFrame, seed: int) -> pl.DataFrame:
    """`events` with the column `behavior` in a seeded random order: users, times, places and frequencies stay."""
    order = np.random.default_rng(seed).permutation(events.height)
    return events.with_columns(events["behavior"].gather(order))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.studies.shuffled", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=Path, default=Path("data/events.parquet"),
                        help="the log (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("data/raw/shuffled.parquet"),
                        help="the log to write, for source.format table (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (default: %(default)s)")
    args = parser.parse_args()
    log = shuffled(tables.read("events", args.events), args.seed)
    with atomic_file(args.out) as path:
        log.write_parquet(path)
    console.print(f"shuffled: {log.height:,} events, {args.out}")


if __name__ == "__main__":
    run(main)
