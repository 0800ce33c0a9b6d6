"""RescueTime: the CSV of its API with perspective `interval`, by the hour or by five minutes.

Header `Date,Time Spent (seconds),Number of People,Activity,Category,Productivity`; `Date` is `2024-05-06T08:00:00`,
local. Read in karlicoss/rescuexport (`dal.py`). The behaviour is the category. Times are rounded: of one hour (or five
minutes) the order of the rows is that of the file, longest first, and not that in which things were done. Whose the log
is, no row says.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_NEEDED = ["Date", "Time Spent (seconds)", "Activity", "Category"]


def fits(sample: Sample) -> bool:
    return set(_NEEDED) <= sample.header


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout, or `source.person` does not say whose it is.
    """
    meaning = exports.Meaning(pl.col("Date"), pl.col("Category"), exports.local(source))
    return exports.rows(exports.headed(path, source, _NEEDED), path, source, meaning)
