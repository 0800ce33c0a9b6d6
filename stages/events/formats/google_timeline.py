"""Google Timeline, exported on the device (`Timeline.json` of Android, `location-history.json` of the iPhone).

Android has `semanticSegments`, a list, in an object; the iPhone has the list alone. Each: `startTime` (with an offset),
perhaps `startTimeTimezoneUtcOffsetMinutes`, and one of `visit.topCandidate.semanticType` (HOME or Home),
`activity.topCandidate.type` (WALKING or walking), `timelinePath`. Read in CarlosBergillos/LocationHistoryFormat (issue
13) and the notes of nabedroid/google-timeline-viewer.

The behaviour is `at home`, `at work` and so on, or how the person moved. Paths, and visits within visits
(`hierarchyLevel` above 0), are no events. Whose the log is, no object says.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.events import exports, json_documents, reading
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_FIELDS = {"time": "startTime", "offset": "startTimeTimezoneUtcOffsetMinutes", "level": "visit.hierarchyLevel",
           "visit": "visit.topCandidate.semanticType", "activity": "activity.topCandidate.type"}


def fits(sample: Sample) -> bool:
    if not sample.is_list:
        return "semanticSegments" in sample.keys
    return {"startTime", "endTime"} <= sample.keys and bool({"visit", "activity", "timelinePath"} & sample.keys)


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout, or `source` does not say whose it is or where they live.
    """
    if not source.time_zone:
        raise UserError(f"source.time_zone: empty, and source.format {source.format} has times with offsets: set it to "
                        "written (each keeps its own, as of travellers), or to the people's, such as Europe/Berlin")
    start = reading.start(path, json_documents.LOOKED_AT).lstrip(b"\xef\xbb\xbf \t\r\n")
    visit = pl.lit("at ") + _words("visit").str.replace("^(?:type|inferred) ", "").str.replace(
        "^unknown$", "an unknown place").str.replace("^searched address$", "a searched address")
    meaning = exports.Meaning(
        pl.col("time"), pl.coalesce(visit, _words("activity")),
        exports.local(source, offset=source.time_zone != "written"), offset=pl.col("offset"),
        ignored=pl.coalesce("visit", "activity").is_null() | (pl.col("level").fill_null("0") != "0"))
    way = "" if start.startswith(b"[") else "semanticSegments"
    return exports.rows(exports.document(path, source, _FIELDS, way), path, source, meaning)


def _words(name: str) -> pl.Expr:
    return pl.col(name).str.to_lowercase().str.replace_all("_", " ")
