"""ActivityWatch: the JSON of "Export all buckets", or of one bucket.

`buckets` → id → `type`, `hostname`, `events` of `timestamp` (UTC), `duration` (seconds) and `data`. Window watchers, on
Android too, have type `currentwindow` and `data.app`; the watcher of absence has type `afkstatus` and `data.status`.
Read in ActivityWatch's aw-webui (`Buckets.vue`) and aw-android (`Event.kt`).

The behaviour is the app. No events are: those of other buckets, those that lie wholly within a span in which the
person was away (`afk`, of the same host), and those that only go on with the app of the event before, as when the
window's title changes. Whose the log is, no bucket says.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports, times
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_FIELDS = {"type": "/buckets.*.type", "bucket": "/buckets.*", "host": "/buckets.*.hostname", "time": "timestamp",
           "duration": "duration", "app": "data.app", "status": "data.status"}
_WINDOWS = "currentwindow"
_GAP = 5_000_000  # microseconds; an event that begins this soon after the one before goes on with it


def fits(sample: Sample) -> bool:
    return "buckets" in sample.keys and not sample.is_list


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file, which is read whole.

    Raises:
        UserError: the file is not in this layout, or `source` does not say whose it is or where they live.
    """
    meaning = exports.Meaning(pl.col("time"), pl.col("app"), exports.utc(source), ignored=pl.col("ignored"))
    pieces = list(exports.document(path, source, _FIELDS, "buckets.*.events"))
    if pieces:
        whole = Piece(lambda: _marked(pl.concat([piece.parse() for piece in pieces])), pieces[-1].end)
        yield from exports.rows(iter([whole]), path, source, meaning)


def _marked(frame: pl.DataFrame) -> pl.DataFrame:
    """The events, `ignored` where they are none."""
    start = times.read(frame.select("time"), times.Written(zone="UTC"))["time"]
    length = (pl.col("duration").cast(pl.Float64, strict=False).fill_null(0) * 1e6).cast(pl.Int64)
    frame = frame.with_columns(start=start, end=start + pl.duration(microseconds=length), host=pl.col("host").fill_null(
        "")).with_row_index("row").sort("start", maintain_order=True)
    away = frame.filter(type="afkstatus", status="afk").select("host", "start", away_until="end")
    # a bucket that says no type is a window watcher's if it knows apps
    own = frame.filter(pl.coalesce("type", pl.when(pl.col("app").is_not_null()).then(pl.lit(_WINDOWS))) == _WINDOWS)
    own = own.join_asof(
        away.drop_nulls(), on="start", by="host", check_sortedness=False)
    own = own.with_columns(away=(pl.col("end") <= pl.col("away_until")).fill_null(False))
    here = own.filter(~pl.col("away")).with_columns(goes_on=(
        (pl.col("app") == pl.col("app").shift()) & (pl.col("start") <= pl.col("end").shift() + pl.duration(
            microseconds=_GAP))).over("bucket").fill_null(False))
    kept = here.filter(~pl.col("goes_on"))["row"]
    return frame.sort("row").with_columns(ignored=~pl.col("row").is_in(kept.implode()))
