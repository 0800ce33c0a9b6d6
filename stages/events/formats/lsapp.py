"""LSApp (Aliannejadi et al. 2021, ACM TOIS): the layout of `lsapp.tsv`.

Tab-separated with a header: user_id, session_id, timestamp, app_name, event_type. The behaviour is the app that is
opened; rows of another type (Closed, User Interaction, Broken) are no events and stand in quarantine without counting
as refused. The log knows no places.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.events import delimited, times
from stages.events.columns import event_columns, shown
from stages.events.reading import Piece
from stages.events.rules import Rule
from stages.events.sample import Sample
from stages.events.settings import Source

_NAMES = ["user_id", "session_id", "timestamp", "app_name", "event_type"]


def fits(sample: Sample) -> bool:
    return set(_NAMES) <= sample.header


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout.
    """
    head = delimited.header(path, _NAMES)
    found = head.names
    if absent := [name for name in _NAMES if name not in found]:
        raise UserError(
            f"{path}: no column {absent[0]!r}; source.format lsapp has {', '.join(_NAMES)}, the file has "
            f"{shown(found)}"
        )
    event = event_columns(path, source, found)
    for piece in delimited.records(path, found, head.separator, event=event, header=head.line):
        yield piece.then(functools.partial(_rows, times.Written(dates=source.dates)))


def _rows(written: times.Written, frame: pl.DataFrame) -> pl.DataFrame:
    time = times.read(frame.select(time="timestamp"), written)
    other = pl.col("problem").is_null() & (pl.col("event_type").str.strip_chars().str.to_lowercase() != "opened")
    return frame.select(
        "line", "fingerprint", pl.col("user_id").alias("user"), *time.drop("problem"),
        pl.lit(None, pl.String).alias("place"), pl.col("app_name").alias("behavior"),
        pl.when(other).then(pl.lit(Rule.EVENT_TYPE.value)).otherwise(pl.coalesce("problem", time["problem"]))
        .alias("problem"),
        pl.struct("timestamp").alias("written"),
    )
