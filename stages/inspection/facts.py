"""What there is in a log, by the events of a part of it: people, behaviours, hours, gaps, what a run makes of them."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from stages.events.assembly import Log
from stages.events.labels import UNKNOWN
from stages.events.rules import IGNORED, Rule
from stages.windows.settings import Windowing

_NIGHT = 5  # hours, the quietest that come one after another
_NIGHT_BEGINS = range(22, 28)  # o'clock, in which they begin in most lives
_QUIET = 0.5  # of what there would be in them if all hours were alike: else there is no night to be seen
_MANY = 300  # behaviours
_REPEATS = 0.5
_SHARE_TRAINED, _SHARE_TESTED = 0.8, 0.1  # of the people
_MANY_TESTED = 5_000  # windows, of which more than the default's are worth testing
_EXAMPLES = 3


@dataclass(frozen=True)
class Facts:
    """Counts of the part that was looked at; `share` is how much of the log it is.

    Attributes:
        by_behavior: (behaviour, events), most frequent first.
        by_hour: events of each hour of the day `(24,)`.
        lengths: events of each person, fewest first.
        gap: the median time between two events of a person, in minutes; None where there are none.
        copies: events of the person, time and behaviour of the one before them.
        refused: (rule, rows, cure, examples) of each rule that refuses rows.
        windows: of the whole log; where a part was looked at, which cuts people's histories up, its events.
    """

    share: float
    rows: int
    events: int
    ignored: int
    people: int
    places: int
    first: str
    last: str
    days: int
    by_behavior: list[tuple[str, int]]
    by_hour: list[int]
    lengths: list[int]
    gap: float | None
    repeats: float
    copies: int
    midnight: float
    newest_first: int
    refused: list[tuple[str, int, str, list[str]]]
    windows: int
    short: int

    @property
    def behaviors(self) -> int:
        return len(self.by_behavior)

    def tail(self, threshold: float) -> tuple[int, float]:
        """How many behaviours are at or below a share of the events, and their share of them together."""
        rare = [count for _, count in self.by_behavior if count <= threshold * self.events]
        return len(rare), sum(rare) / max(self.events, 1)


def facts(log: Log, share: float, windowing: Windowing) -> Facts:
    """The facts of a log that was read, which is `share` of the whole one."""
    events = log.events
    refused = log.quarantine.filter(~pl.col("rule").is_in(IGNORED))
    rules = []
    for rule, count in refused["rule"].value_counts().sort("count", "rule", descending=[True, False]).iter_rows():
        texts = refused.filter(rule=rule)["text"].drop_nulls().unique(maintain_order=True).head(_EXAMPLES).to_list()
        rules.append((rule, count, Rule(rule).cure, [text for text in texts if text]))
    lengths = events.group_by("user").len()["len"].sort().to_list()
    same = events["user"] == events["user"].shift()
    gaps = (events["time"] - events["time"].shift()).filter(same)
    repeated = same & (events["behavior"] == events["behavior"].shift())
    again = repeated.filter(same)
    gap = gaps.median() if len(gaps) else None
    hours = np.bincount(events["time"].dt.hour().to_numpy(), minlength=24).tolist() if events.height else [0] * 24
    counts = events["behavior"].value_counts().sort("count", "behavior", descending=[True, False])
    first, last = (events["time"].min(), events["time"].max()) if events.height else (None, None)
    return Facts(
        share, log.rows, events.height, log.quarantine.height - refused.height, len(lengths),
        events.filter(pl.col("place") != UNKNOWN)["place"].n_unique(), str(first or ""), str(last or ""),
        (last - first).days + 1 if first is not None else 0, list(counts.iter_rows()), hours, lengths,
        gap / timedelta(minutes=1) if gap is not None else None, float(again.mean() or 0),
        int((repeated & (events["time"] == events["time"].shift())).sum()),
        float((events["time"].dt.truncate("1d") == events["time"]).mean() or 0), log.newest_first, rules,
        sum(max(length - windowing.min_history, 0) for length in lengths) if share == 1 else round(len(events) / share),
        sum(length <= windowing.min_history for length in lengths))


def quiet_hours(by_hour: list[int]) -> int | None:
    """When the quietest hours begin, where there is a night to be seen."""
    total = sum(by_hour)
    if total < 200:
        return None
    sums = [sum(by_hour[(start + hour) % 24] for hour in range(_NIGHT)) for start in range(24)]
    least = min(range(24), key=sums.__getitem__)
    return least if sums[least] < _QUIET * total * _NIGHT / 24 else None


def warnings(found: Facts, windowing: Windowing, max_refused: float) -> list[str]:
    """What is likely to be wrong with a log, or with a model that is made of it."""
    said = []
    refused = sum(rows for _, rows, *_ in found.refused)
    if refused > max_refused * max(found.rows - found.ignored, 1):
        said.append(f"{refused / max(found.rows - found.ignored, 1):.0%} of the rows would be refused, and "
                    f"ingest.max_refused allows {max_refused:.0%}: ingest would fail")
    if not found.events:
        return [*said, "no event is left"]
    if found.people == 1:
        said.append("one person: models are tested on people whom they have not seen, which takes three at least")
    elif found.people == 2 and found.share == 1:
        said.append("two people: some are trained on, some validate, some are tested, which takes three at least")
    elif found.people < 30 and found.share == 1:
        said.append(f"{found.people} people: about a tenth of them is tested, so figures will be rough; where a split "
                    "gets nobody, windowing names a data_seed that gives it somebody")
    start = quiet_hours(found.by_hour)
    if start is not None and start not in {hour % 24 for hour in _NIGHT_BEGINS}:
        shift = (1 - start + 12) % 24 - 12
        said.append(f"the quietest hours are {start}:00 to {(start + _NIGHT) % 24}:00; if that is people's night, "
                    f"times are off by some {-shift:+d} hours, as UTC would be: look at source.time_zone and "
                    "source.naive_times")
    if found.midnight > 0.2:
        said.append(f"{found.midnight:.0%} of the events are at midnight sharp: days without an hour?")
    if found.copies > 0.01 * found.events:
        said.append(f"{found.copies:,} events have the person, time and behaviour of another: if they are copies, name "
                    "the columns that make an event in source.event_columns")
    if found.behaviors > _MANY:
        said.append(f"{found.behaviors:,} behaviours: a taxonomy (source.taxonomy) or source.top keeps fewer")
    if found.behaviors == 1:
        said.append("one behaviour: there is nothing to predict")
    if found.share == 1 and found.short > 0.3 * found.people:
        said.append(f"{found.short:,} of {found.people:,} people have too few events for a window "
                    f"(windowing.min_history is {windowing.min_history})")
    if found.repeats > _REPEATS and found.behaviors > 1:
        said.append(f"{found.repeats:.0%} of the steps repeat the behaviour before: if rows are parts of one doing, "
                    "source.event_columns, or a log of beginnings alone, would tell more")
    return said


def sizes(found: Facts, windowing: Windowing) -> dict[str, Any]:
    """Keys of `windowing` whose default does not fit the log, and what would."""
    if not found.lengths:
        return {}
    median = found.lengths[len(found.lengths) // 2]
    fitting: dict[str, Any] = {}
    if median <= 2 * windowing.min_history and found.share == 1:
        fitting["windowing.min_history"] = max(1, min(windowing.min_history, median // 3))
    if found.windows * _SHARE_TESTED > _MANY_TESTED:
        fitting["windowing.natural"], fitting["windowing.balanced_per_behavior"] = 500, 20
    return fitting


def targets(found: Facts, wanted: int) -> int:
    """About how many targets the language model trains on: what the people trained on have, and at most `wanted`."""
    return min(wanted, round(found.windows * _SHARE_TRAINED))
