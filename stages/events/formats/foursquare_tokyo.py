"""Foursquare check-ins in Tokyo: the layout of `dataset_TSMC2014_TKY.txt` (Yang et al. 2015, IEEE TSMC 45(1)).

That of New York (`foursquare_nyc`), whose areas it does not share: the log knows no places. The taxonomy of New York
fits: `source.taxonomy: foursquare_nyc.csv`.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_NAMES = ["user", "venue", "category_id", "category", "latitude", "longitude", "offset", "utc"]
_JAPAN = "540"  # minutes


def fits(sample: Sample) -> bool:
    return bool(sample.lines) and all(len(row) == len(_NAMES) and row[6] == _JAPAN for row in sample.rows("\t"))


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout.
    """
    meaning = exports.Meaning(
        pl.col("utc"), pl.col("category"), exports.local(source, "%a %b %d %H:%M:%S %z %Y", offset=True),
        user=pl.col("user"), offset=pl.col("offset"))
    pieces = exports.headless(path, source, _NAMES, "\t", ("utf-8", "latin-1"))
    return exports.rows(pieces, path, source, meaning)
