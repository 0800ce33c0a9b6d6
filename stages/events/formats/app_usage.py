"""App usage of Tsinghua University: the layout of `App_usage_trace.txt` (Yu et al. 2018, UbiComp).

Fields separated by spaces, no header: user, time as yyyymmddhhmmss (local), base station, app, bytes. The behaviour is
`app <id>`, which wants a taxonomy (a line of it: `app 12,Watching videos`). A station says nothing to a reader, so the
place is what it is to the user: `home` is the station most used from 22:00 to 7:00, `work`
the one most used on weekdays from 9:00 to 18:00 among the others, all else is `elsewhere`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import delimited, times
from stages.events.columns import event_columns
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_NAMES = ["user", "time", "station", "app", "bytes"]
_TIMES = times.Written("%Y%m%d%H%M%S")


def fits(sample: Sample) -> bool:
    return bool(sample.lines) and all(len(row) == len(_NAMES) and re.fullmatch(r"20\d{12}", row[1])
                                      for row in sample.rows(None))


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file; the place is the station until `finish`.

    Raises:
        UserError: the file is not in this layout.
    """
    delimited.check_width(path, _NAMES, None, "app_usage")
    for piece in delimited.records(path, _NAMES, None, event=event_columns(path, source, _NAMES)):
        yield piece.then(_rows)


def _rows(frame: pl.DataFrame) -> pl.DataFrame:
    time = times.read(frame, _TIMES)
    return frame.select(
        "line", "fingerprint", pl.coalesce("problem", time["problem"]).alias("problem"), "user", *time.drop("problem"),
        pl.col("station").alias("place"), (pl.lit("app ") + pl.col("app")).alias("behavior"),
        pl.struct("time").alias("written"),
    )


def finish(events: pl.DataFrame) -> pl.DataFrame:
    """Stations become `home`, `work` and `elsewhere`; `unknown` stays."""
    hour, known = pl.col("time").dt.hour(), pl.col("place") != "unknown"
    night, office = (hour >= 22) | (hour < 7), hour.is_between(9, 17) & (pl.col("time").dt.weekday() <= 5)
    home = _most_used(events.filter(known & night), "home")
    joined = events.join(home, on="user", how="left", maintain_order="left")
    work = _most_used(joined.filter(known & office & pl.col("place").ne_missing(pl.col("home"))), "work")
    joined = joined.join(work, on="user", how="left", maintain_order="left")
    role = (
        pl.when(~known).then("place").when(pl.col("place") == pl.col("home")).then(pl.lit("home"))
        .when(pl.col("place") == pl.col("work")).then(pl.lit("work")).otherwise(pl.lit("elsewhere"))
    )
    return joined.with_columns(place=role).select(events.columns)


def _most_used(events: pl.DataFrame, name: str) -> pl.DataFrame:
    """The place of most events of each user, the first by name among equals."""
    counts = events.group_by("user", "place").len().sort("len", "place", descending=[True, False])
    return counts.group_by("user", maintain_order=True).agg(pl.col("place").first().alias(name))
