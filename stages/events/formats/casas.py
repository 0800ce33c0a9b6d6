"""CASAS smart homes (Washington State University): a line an event of a sensor, in blanks or tabs.

`2010-11-04 00:03:50.209589 M003 ON` and, in annotated files, `Sleeping begin` or `end` behind it (also
`Sleeping="begin"`). Local time. Read in tcsvn/pyadlml and in the documentation of pyActLearn.

In a file with annotations the behaviour is the activity that begins, and the place the sensor; every other line is no
event. In one without, it is the sensor that goes on (`M003 ON`); OFF, CLOSE and numbers are no events. Whose home it
is, no line says.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports, reading
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_LINE = (r'^\s*(\d{4}-\d\d-\d\d)\s+(\d{1,2}:\d\d:\d\d(?:\.\d+)?)\s+(\S+)\s+(\S+)'
         r'(?:\s+(\S.*?)(?:(?:\s+|=)"?(begin|end)"?)?)?\s*$')
_NAMES = ["date", "clock", "sensor", "value", "activity", "edge"]
_ON = ["ON", "OPEN", "PRESENT"]


def fits(sample: Sample) -> bool:
    lines = pl.Series(sample.lines[:50], dtype=pl.String)
    values = lines.str.extract(_LINE, 4)
    return len(lines) > 1 and bool(values.is_not_null().all()) and bool(
        values.is_in([*_ON, "OFF", "CLOSE", "ABSENT"]).mean() > 0.5)


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file cannot be read, or `source.person` does not say whose it is.
    """
    if any(b"begin" in block.text for block in reading.blocks(path)):
        behavior, place = pl.col("activity").str.replace_all("_", " "), pl.col("sensor")
        ignored = pl.col("edge").fill_null("") != "begin"
    else:
        behavior, place = pl.col("sensor") + " " + pl.col("value"), pl.lit(None)
        ignored = ~pl.col("value").is_in(_ON)
    meaning = exports.Meaning(pl.col("date"), behavior, exports.local(source, clock=True), place=place,
                              clock=pl.col("clock"), ignored=ignored)
    return exports.rows(exports.lines(path, _LINE, _NAMES), path, source, meaning)
