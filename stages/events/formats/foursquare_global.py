"""Foursquare check-ins of the world (Yang et al. 2016, TIST 7(3)): the folder of `dataset_TIST2015_Checkins.txt` and
`dataset_TIST2015_POIs.txt`.

Tab-separated, no header. Check-ins: user, venue, UTC time (`Tue Apr 03 18:00:09 +0000 2012`), offset in minutes.
Venues: venue, latitude, longitude, category, country. Read in several readers. The behaviour is the category of the
venue, the place its country; the time is local. A venue that is not listed is no behaviour. Other files do not belong
into the folder.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import delimited, exports, reading
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_NAMES = ["user", "venue", "utc", "offset"]
_VENUES = ["venue", "latitude", "longitude", "category", "country"]
_ENCODINGS = ("utf-8", "latin-1")
TWO_FILES = True


def fits(sample: Sample) -> bool:
    return bool(sample.lines) and all(len(row) == len(_NAMES) and " +0000 " in row[2] for row in sample.rows("\t"))


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file; none of that of the venues.

    Raises:
        UserError: the file is not in this layout, or has no venues beside it.
    """
    if _is_venues(path):
        return
    venues = exports.beside(path, source, _is_venues, "file of venues (dataset_TIST2015_POIs.txt)")
    listed = [piece.parse() for piece in delimited.records(venues, _VENUES, "\t", encodings=_ENCODINGS)]
    venue = pl.col("venue")
    behavior, place = (exports.meant(venue, exports.names_of(venues, listed, venue, pl.col(column)))
                       for column in ("category", "country"))
    meaning = exports.Meaning(
        pl.col("utc"), behavior, exports.local(source, "%a %b %d %H:%M:%S %z %Y", offset=True), user=pl.col("user"),
        place=place, offset=pl.col("offset"))
    yield from exports.rows(exports.headless(path, source, _NAMES, "\t", _ENCODINGS), path, source, meaning)


def _is_venues(path: Path) -> bool:
    return reading.start(path).partition(b"\n")[0].count(b"\t") == len(_VENUES) - 1
