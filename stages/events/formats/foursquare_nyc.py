"""Foursquare check-ins in New York: the layout of `dataset_TSMC2014_NYC.txt` (Yang et al. 2015, IEEE TSMC 45(1)).

Tab-separated, no header, no quoting, Latin-1: user, venue, category id, category name, latitude, longitude, offset from
UTC in minutes, UTC time such as `Tue Apr 03 18:00:09 +0000 2012`. Venue and coordinates may be empty. The behaviour is
the category's name, the place the area of the city, and the time is local: UTC plus the offset.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import delimited
from stages.events.columns import event_columns
from stages.events.offsets import EARLIEST, LATEST
from stages.events.reading import Piece
from stages.events.rules import missing
from stages.events.sample import Sample
from stages.events.settings import Source
from stages.events.times import time_rule

_NAMES = ["user", "venue", "category_id", "category", "latitude", "longitude", "offset", "utc"]
_ENCODINGS = ("utf-8", "latin-1")
_OFFSETS = ("-240", "-300")  # of New York

# Manhattan lies askew on the map, so its areas are boxes in kilometres across and along its avenues, from 9th Avenue at
# 26th Street: (name, across from, to, along from, to). The first box that holds a point names it. Drawn by hand.
_AVENUES_EAST_OF_NORTH = math.radians(29)
_ORIGIN = (40.75, -73.98)
_MANHATTAN = (
    ("Lower Manhattan", -1.1, 1.4, -6.3, -3.9),
    ("Downtown Manhattan", -2.0, 2.45, -3.9, -1.9),
    ("Midtown Manhattan", -2.4, 1.4, -1.9, 1.65),
    ("Central Park", -1.11, -0.28, 1.65, 5.82),
    ("Upper West Side", -2.4, -1.11, 1.65, 5.82),
    ("Upper East Side", -0.28, 1.75, 1.65, 4.68),
    ("Upper Manhattan", -0.28, 1.2, 4.68, 5.82),
    ("Upper Manhattan", -2.6, 1.0, 5.82, 7.6),
    ("Upper Manhattan", -2.7, 0.4, 7.6, 9.0),
    ("Upper Manhattan", -2.8, -0.6, 9.0, 11.0),
    ("Upper Manhattan", -2.8, -1.35, 11.0, 15.1),
)
# The rest of the city in degrees: (name, south, north, west, east), tried after Manhattan
_AROUND = (
    ("Staten Island", 40.48, 40.65, -74.27, -74.05),
    ("New Jersey", 40.48, 41.10, -74.60, -74.02),
    ("New Jersey", 40.74, 40.80, -74.02, -74.00),
    ("New Jersey", 40.80, 40.90, -74.02, -73.945),
    ("New Jersey", 40.90, 41.10, -74.02, -73.93),
    ("Bronx", 40.80, 40.915, -73.935, -73.77),
    ("Westchester", 40.91, 41.10, -73.93, -73.60),
    ("Queens", 40.738, 40.80, -73.962, -73.70),
    ("Queens", 40.715, 40.738, -73.925, -73.70),
    ("Queens", 40.695, 40.715, -73.905, -73.70),
    ("Queens", 40.68, 40.695, -73.868, -73.70),
    ("Queens", 40.60, 40.68, -73.858, -73.70),
    ("Queens", 40.54, 40.60, -73.925, -73.70),
    ("North Brooklyn", 40.695, 40.74, -73.975, -73.90),
    ("Brooklyn", 40.56, 40.71, -74.05, -73.855),
)


def fits(sample: Sample) -> bool:
    return bool(sample.lines) and all(len(row) == len(_NAMES) and " +0000 " in row[7] and row[6] in _OFFSETS
                                      for row in sample.rows("\t"))


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout.
    """
    delimited.check_width(path, _NAMES, "\t", "foursquare_nyc", _ENCODINGS)
    event = event_columns(path, source, _NAMES)
    for piece in delimited.records(path, _NAMES, "\t", event=event, encodings=_ENCODINGS):
        yield piece.then(_rows)


def _rows(frame: pl.DataFrame) -> pl.DataFrame:
    utc = pl.col("utc").str.strip_chars()
    frame = frame.with_columns(
        pl.struct("utc", "offset").alias("written"),
        utc.str.to_datetime("%a %b %d %H:%M:%S %z %Y", time_unit="us", strict=False).dt.replace_time_zone(None)
        .alias("time"),
        pl.col("offset").str.strip_chars().cast(pl.Int64, strict=False).alias("minutes"),
    ).with_columns(time=pl.when(pl.col("minutes").is_between(EARLIEST, LATEST))
                   .then(pl.col("time") + pl.duration(minutes="minutes")))
    return frame.select(
        "line", "fingerprint", pl.coalesce("problem", time_rule(missing(pl.col("utc")))).alias("problem"),
        "user", "time", pl.col("minutes").alias("offset"), pl.lit(False).alias("elsewhere"),
        _area(pl.col("latitude"), pl.col("longitude")).alias("place"),
        pl.col("category").alias("behavior"), "written",
    )


def _area(latitude: pl.Expr, longitude: pl.Expr) -> pl.Expr:
    """Name of the area, null outside of all and without coordinates."""
    latitude = latitude.str.strip_chars().cast(pl.Float64, strict=False)
    longitude = longitude.str.strip_chars().cast(pl.Float64, strict=False)
    north = (latitude - _ORIGIN[0]) * 111.2  # kilometres
    east = (longitude - _ORIGIN[1]) * 111.2 * math.cos(math.radians(_ORIGIN[0]))
    sine, cosine = math.sin(_AVENUES_EAST_OF_NORTH), math.cos(_AVENUES_EAST_OF_NORTH)
    across, along = east * cosine - north * sine, east * sine + north * cosine
    boxes = [(name, across.is_between(a, b) & along.is_between(c, d)) for name, a, b, c, d in _MANHATTAN]
    boxes += [(name, latitude.is_between(a, b) & longitude.is_between(c, d)) for name, a, b, c, d in _AROUND]
    return pl.coalesce(pl.when(inside).then(pl.lit(name)) for name, inside in boxes)
