"""Gowalla check-ins (SNAP, `loc-gowalla_totalCheckins.txt`; Brightkite has the same layout): tab-separated, no header.

User, time in UTC (`2010-10-19T23:55:27Z`), latitude, longitude, place. Read in RUCAIBox/RecSysDatasets. The behaviour
is `place <id>`, of which there are very many: `source.top`, or a taxonomy. No row says in which zone it was.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_NAMES = ["user", "time", "latitude", "longitude", "location"]
_TIME, _DEGREES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), re.compile(r"-?\d{1,3}\.\d+")


def fits(sample: Sample) -> bool:
    return bool(sample.lines) and all(
        len(row) == len(_NAMES) and bool(_TIME.fullmatch(row[1])) and bool(_DEGREES.fullmatch(row[2]))
        for row in sample.rows("\t"))


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout, or `source.time_zone` is empty.
    """
    meaning = exports.Meaning(pl.col("time"), pl.lit("place ") + pl.col("location"), exports.utc(source),
                              user=pl.col("user"))
    return exports.rows(exports.headless(path, source, _NAMES, "\t"), path, source, meaning)
