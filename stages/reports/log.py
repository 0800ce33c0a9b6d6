"""Pictures of a log: its behaviours by rank, its hours, how much there is of each person."""

from collections.abc import Sequence
from typing import Any

from stages.reports.drawing import Picture

_MOST = 40  # behaviours
_BINS = 20
_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"


def pictures(by_behavior: Sequence[tuple[str, int]], by_hour: Sequence[int], lengths: Sequence[int]) -> list[Picture]:
    """The pictures; a log without events has none.

    Args:
        by_behavior: (behaviour, events), most frequent first.
        by_hour: events of each hour `(24,)`.
        lengths: events of each person.
    """
    if not lengths:
        return []
    behaviors = [{"behavior": name, "events": count} for name, count in by_behavior[:_MOST]]
    hours = [{"hour": hour, "events": count} for hour, count in enumerate(by_hour)]
    people = [{"events": count} for count in lengths]
    return [
        _bars("behaviors", f"Behaviours by rank (at most {_MOST})", behaviors, {
            "y": {"field": "behavior", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 200}},
            "x": {"field": "events", "type": "quantitative", "title": "events"}}),
        _bars("hours", "Events by hour of the day", hours, {
            "x": {"field": "hour", "type": "ordinal", "title": "hour"},
            "y": {"field": "events", "type": "quantitative", "title": "events"}}),
        _bars("people", "People by how many events they have", people, {
            "x": {"field": "events", "type": "quantitative", "bin": {"maxbins": _BINS}, "title": "events"},
            "y": {"aggregate": "count", "type": "quantitative", "title": "people"}}),
    ]


def _bars(name: str, title: str, values: list[dict[str, Any]], encoding: dict[str, Any]) -> Picture:
    spec = {"$schema": _SCHEMA, "data": {"values": values}, "title": {"text": title}, "mark": {"type": "bar"},
            "encoding": encoding}
    return Picture(f"log_{name}", spec, {"title": title})
