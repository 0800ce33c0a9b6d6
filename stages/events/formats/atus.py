"""The American Time Use Survey (Bureau of Labor Statistics): the folder of its activity and respondent files.

Both have a header, fields with commas between. Activities (`atusact_….dat`): `TUCASEID`, `TUSTARTTIM` (a clock),
`TUTIER1CODE` (the kind of activity), `TEWHERE` (where), and more. Respondents (`atusresp_….dat`): `TUCASEID`,
`TUDIARYDATE` (`20230115`), and more. A diary runs from four in the morning to four: what starts before four is of the
next day. Read in the survey's data dictionaries and lexicon. The behaviour is the major category, the place what
TEWHERE says.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports, reading
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_ACTIVITY = ["TUCASEID", "TUSTARTTIM", "TUTIER1CODE", "TEWHERE"]
_RESPONDENT = ["TUCASEID", "TUDIARYDATE"]
_KINDS = {
    1: "Personal care", 2: "Household activities", 3: "Caring for household members", 4: "Caring for others",
    5: "Work", 6: "Education", 7: "Shopping", 8: "Professional and personal care services", 9: "Household services",
    10: "Government services and civic obligations", 11: "Eating and drinking", 12: "Socialising, relaxing and leisure",
    13: "Sports, exercise and recreation", 14: "Religious and spiritual activities", 15: "Volunteering",
    16: "Telephone calls", 18: "Travelling",
}
_PLACES = {
    1: "home", 2: "workplace", 3: "someone else's home", 4: "restaurant or bar", 5: "place of worship",
    6: "grocery store", 7: "other store", 8: "school", 9: "outdoors", 10: "library", 11: "other place",
    12: "car (driver)", 13: "car (passenger)", 14: "walking", 15: "bus", 16: "subway or train", 17: "bicycle",
    18: "boat", 19: "taxi", 20: "aeroplane", 21: "other transport", 30: "bank", 31: "gym", 32: "post office",
}
_NEW_DAY = 4  # o'clock
TWO_FILES = True


def fits(sample: Sample) -> bool:
    return set(_ACTIVITY) <= sample.header


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file; none of that of the respondents.

    Raises:
        UserError: the file is not in this layout, or has no respondents beside it.
    """
    if _is_respondents(path):
        return
    respondents = exports.beside(path, source, _is_respondents, "respondent file (atusresp_….dat)")
    pieces = exports.headed(respondents, source.model_copy(update={"event_columns": []}), _RESPONDENT)
    days = exports.names_of(respondents, (piece.parse() for piece in pieces), *map(pl.col, _RESPONDENT))
    day = exports.meant(pl.col("TUCASEID"), days).str.to_date("%Y%m%d", strict=False)
    night = pl.col("TUSTARTTIM").str.slice(0, 2).cast(pl.Int64, strict=False) < _NEW_DAY
    meaning = exports.Meaning(
        (day + pl.duration(days=night.fill_null(False).cast(pl.Int64))).cast(pl.Date), _named("TUTIER1CODE", _KINDS),
        exports.local(source, clock=True), user=pl.col("TUCASEID"), clock=pl.col("TUSTARTTIM"),
        place=_named("TEWHERE", _PLACES), ignored=pl.col("TUTIER1CODE").str.strip_chars() == "50")
    yield from exports.rows(exports.headed(path, source, _ACTIVITY), path, source, meaning)


def _is_respondents(path: Path) -> bool:
    return b"TUDIARYDATE" in reading.start(path).partition(b"\n")[0].upper()


def _named(column: str, names: dict[int, str]) -> pl.Expr:
    return exports.meant(pl.col(column).str.strip_chars().cast(pl.Int64, strict=False), names)
