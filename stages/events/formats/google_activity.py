"""Google Takeout, My Activity: `MyActivity.json` of a product, or of all, exported as JSON (HTML is Takeout's default).

A list of objects: `header` (the product: YouTube, Search, Maps, an app), `title` ("Watched …"), `time` (UTC), and more.
Read in karlicoss/google_takeout_parser (`parse_json.py`). The behaviour is the header: titles hold what was searched.
Whose the log is, no object says.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_FIELDS = {"header": "header", "time": "time"}


def fits(sample: Sample) -> bool:
    return sample.is_list and {"header", "title", "time"} <= sample.keys


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout, or `source` does not say whose it is or where they live.
    """
    meaning = exports.Meaning(pl.col("time"), pl.col("header"), exports.utc(source))
    return exports.rows(exports.document(path, source, _FIELDS), path, source, meaning)
