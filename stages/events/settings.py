"""What a log is and how it is read."""

from typing import Annotated, Literal

from pydantic import Field

from stages.common.params import Positive, Section, Share


class Columns(Section):
    user: str
    time: str
    place: str
    behavior: str


class Source(Section):
    format: Literal["simulated", "table", "foursquare_nyc", "app_usage", "lsapp"]
    path: str
    files: str
    taxonomy: str
    columns: Columns
    time_format: str
    time_zone: str


class Simulator(Section):
    users: Positive
    days: Annotated[int, Field(ge=1, le=3650)]
    events_per_day: Annotated[float, Field(gt=0, le=1000)]


class Ingest(Section):
    max_refused: Share
