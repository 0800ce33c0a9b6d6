"""Last.fm scrobbles as the usual exporters write them, newest first, times in UTC.

With a header (`uts,utc_time,artist,…`, `uts` in unix seconds), or without one: artist, album, track and `31 Dec 2023,
22:01`. Read in karlicoss/HPI (`lastfm.py`) and in public exports. The behaviour is the artist; a track that is being
played has no time, and is no event. Whose the log is, no row says.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import delimited, exports
from stages.events.columns import event_columns
from stages.events.reading import Piece
from stages.events.rules import missing
from stages.events.sample import Sample
from stages.events.settings import Source

_HEADED = ["uts", "artist"]
_HEADLESS = ["artist", "album", "track", "date"]
_DATE = r'"?\d{2} \w{3} \d{4}, \d{2}:\d{2}"?\s*$'


def fits(sample: Sample) -> bool:
    if {"uts", "artist", "track"} <= sample.header:
        return True
    line = pl.Series(sample.lines[:20])
    return bool(len(line)) and bool(line.str.contains(_DATE).all()) and "," in line[0]


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout, or `source` does not say whose it is or where they live.
    """
    head = delimited.header(path, _HEADED, "auto" if "uts" in delimited.header(path, _HEADED).names else ",")
    if "uts" in head.names or len(head.names) != len(_HEADLESS):
        pieces, time, pattern = exports.headed(path, source, _HEADED), "uts", "unix"
    else:
        event = event_columns(path, source, _HEADLESS)
        pieces = delimited.records(path, _HEADLESS, ",", event=event, quotes=True)
        time, pattern = "date", "%d %b %Y, %H:%M"
    meaning = exports.Meaning(pl.col(time), pl.col("artist"), exports.utc(source, pattern),
                              ignored=missing(pl.col(time)))
    return exports.rows(pieces, path, source, meaning)
