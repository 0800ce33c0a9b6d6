"""Taobao's `UserBehavior.csv` (Zhu et al. 2018, KDD): user, item, category, kind, unix seconds; no header.

Kinds are pv, cart, fav and buy. Read in public copies. The behaviour is what was done, the place the category in which;
the zone is not said, and Taobao's is Asia/Shanghai.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_NAMES = ["user", "item", "category", "kind", "time"]
_KINDS = {"pv": "Viewing", "cart": "Adding to the cart", "fav": "Marking as a favourite", "buy": "Buying"}


def fits(sample: Sample) -> bool:
    return bool(sample.lines) and all(len(row) == len(_NAMES) and row[3] in _KINDS for row in sample.rows(","))


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout, or `source.time_zone` is empty.
    """
    meaning = exports.Meaning(
        pl.col("time"), pl.col("kind").str.strip_chars().replace(_KINDS), exports.utc(source, "unix"),
        user=pl.col("user"), place=pl.lit("category ") + pl.col("category"))
    return exports.rows(exports.headless(path, source, _NAMES, ","), path, source, meaning)
