"""What a log is and how it is read."""

from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Literal

from pydantic import Field

from stages.common.params import Count, Positive, Section, Share, key_of

FORMATS = [module.name for module in iter_modules([str(Path(__file__).with_name("formats"))])]
"""Of real logs, by name: the modules of that folder, which are not imported for it."""


class Columns(Section):
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
    columns: Columns
    event_columns: list[str]
    time_format: str
    dates: Literal["refuse", "midnight"]
    time_zone: str
    naive_times: Literal["local", "utc"]
    order: Literal["auto", "oldest_first", "newest_first"]


class Simulator(Section):
    users: Positive
    days: Annotated[int, Field(ge=1, le=3650)]
    events_per_day: Annotated[float, Field(gt=0, le=1000)]


class Ingest(Section):
    max_refused: Share
