"""MEDS, the Medical Event Data Standard: Parquet files of `subject_id`, `time`, `code` and more.

Read in Medical-Event-Data-Standard/meds (`schema.py`). Their files lie in folders: `source.files: 'data/**/*.parquet'`.
The behaviour is the code (a taxonomy makes words of it). Measurements without a time, such as the sex, are no events.
Times are local.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports, parquet
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_COLUMNS = {"user": "subject_id", "time": "time", "behavior": "code"}


def fits(sample: Sample) -> bool:
    return {*_COLUMNS.values()} <= set(sample.schema)


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout.
    """
    meaning = exports.Meaning(pl.col("time"), pl.col("behavior"), exports.local(source), user=pl.col("user"),
                              ignored=pl.col("time").is_null())
    return exports.rows(parquet.read(path, _COLUMNS, source), path, source, meaning)
