"""What a log is and how it is read."""

from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from stages.common.params import Count, Positive, Section, Share, key_of

FORMATS = [module.name for module in iter_modules([str(Path(__file__).with_name("formats"))])]
"""Of real logs, by name: the modules of that folder, which are not imported for it."""


def _separator(value: str) -> str:
    if value in ("auto", "blanks", "tab") or (len(value) == 1 and value.isascii() and value not in '"\r\n'):
        return value
    raise ValueError("expected auto, blanks, tab, or one character such as ';'")


class Columns(Section):
    model_config = ConfigDict(coerce_numbers_to_str=True)  # of a log without a header they are numbers

    user: str
    time: str
    clock: str
    offset: str
    place: str
    behavior: str


class Source(Section):
    format: Annotated[str, key_of(lambda: ["simulated", *FORMATS])]
    path: str
    files: str
    taxonomy: str
    unlisted: Literal["keep", "refuse", "other"]
    top: Count
    person: Literal["column", "file", "folder", "one"]
    columns: Columns
    event_columns: list[str]
    time_format: str
    dates: Literal["refuse", "midnight"]
    time_zone: str
    naive_times: Literal["local", "utc"]
    order: Literal["auto", "oldest_first", "newest_first"]
    separator: Annotated[str, AfterValidator(_separator)]
    header: bool
    skip: Count
    events: str
    split: str


class Simulator(Section):
    users: Positive
    days: Annotated[int, Field(ge=1, le=3650)]
    events_per_day: Annotated[float, Field(gt=0, le=1000)]


class Ingest(Section):
    max_refused: Share
