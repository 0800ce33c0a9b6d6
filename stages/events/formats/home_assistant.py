"""Home Assistant: the history as CSV, and the logbook as its API gives it.

The history's header is `entity_id,state,last_changed`, times in UTC; the logbook is a list of objects with `when` (with
an offset), `name`, `state` or `message`, and perhaps `entity_id`. Read in Home Assistant's documentation (history, REST
API). The behaviour is the entity (by its name, in the logbook) and its new state: `light.kitchen on`. States that are
numbers, `unknown` or `unavailable` are no events. Whose the log is, no row says.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports, json_documents, reading
from stages.events.reading import Piece
from stages.events.rules import missing
from stages.events.sample import Sample
from stages.events.settings import Source

_HISTORY = ["entity_id", "state", "last_changed"]
_LOGBOOK = {"when": "when", "name": "name", "state": "state", "message": "message", "entity": "entity_id"}
_NOTHING = ["unknown", "unavailable"]


def fits(sample: Sample) -> bool:
    return set(_HISTORY) <= sample.header or (sample.is_list and {"when", "name"} <= sample.keys)


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout, or `source` does not say whose it is or where they live.
    """
    if reading.start(path, json_documents.LOOKED_AT).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        pieces = exports.document(path, source, _LOGBOOK)
        time, entity, state = pl.col("when"), pl.coalesce("name", "entity"), pl.coalesce("state", "message")
    else:
        pieces = exports.headed(path, source, _HISTORY)
        time, entity, state = pl.col("last_changed"), pl.col("entity_id"), pl.col("state")
    number = state.cast(pl.Float64, strict=False).is_not_null()
    meaning = exports.Meaning(time, entity + " " + state, exports.utc(source),
                              ignored=missing(state) | state.is_in(_NOTHING) | number)
    return exports.rows(pieces, path, source, meaning)
