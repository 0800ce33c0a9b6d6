"""Labels when all of a log are counted: spellings that differ in case only become one, and the rarest `other`."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

OTHER = "other"
UNKNOWN = "unknown"  # the place where a log says none

_COUNTED_AT_ONCE = 1 << 22
_LISTED = 1000  # names, in the counts


class Settled(NamedTuple):
    """The label of each value, by its number, and the names that did not stay as they were, by why: for the counts."""

    labels: pl.Series
    changed: dict[str, dict[str, Any]]


def tally(numbers: np.ndarray, values: int) -> np.ndarray:
    """How often each of so many values occurs, in little memory."""
    parts = (numbers[start : start + _COUNTED_AT_ONCE] for start in range(0, len(numbers), _COUNTED_AT_ONCE))
    return sum((np.bincount(part, minlength=values) for part in parts), np.zeros(values, np.int64))


def settle_places(known: pl.DataFrame, events: np.ndarray) -> Settled:
    """Merge the spellings of places; `known` has the column `label`, `events (V,)` says how many have each value."""
    values = known.select("label", events=pl.Series(events))
    becomes, merged = _merge(values, UNKNOWN)
    return Settled(values["label"].replace(becomes), {"merged": merged})


def settle_behaviors(known: pl.DataFrame, events: np.ndarray, top: int) -> Settled:
    """Merge the spellings of behaviours, then keep the `top` most frequent, if it is not 0; the rest become `other`.

    Args:
        known: `label`, the clean `name` that it comes from, and what stages.events.taxonomy says of that: `listed` (as
            the taxonomy spells it) and `unlisted`.
        events: how many have each value, `(V,)`.
    """
    values = known.select("label", "name", "listed", "unlisted", events=pl.Series(events))
    happened = values.filter(pl.col("events") > 0)
    unlisted = happened.filter("unlisted").group_by("name", becomes="label").agg(pl.col("events").sum())
    if (unlisted["becomes"] == unlisted["name"]).all():
        unlisted = unlisted.drop("becomes")
    respelt = happened.filter(pl.col("listed") != pl.col("name")).group_by("name", becomes="listed").agg(
        pl.col("events").sum())
    becomes, merged = _merge(values, None)
    labels = values["label"].replace(becomes)
    counted = _by_count(happened.select(pl.col("label").replace(becomes), "events"), "label")
    # the log may have an `other` of its own, in whatever case: it takes no place, and the rest join it
    named = counted.filter(pl.col("label").str.to_lowercase() != OTHER)
    other = next(iter(counted.join(named, on="label", how="anti")["label"]), OTHER)
    rest = named.slice(top) if top else named.clear()
    return Settled(labels.replace(dict.fromkeys(rest["label"], other)), {
        "listed_in_another_case": _listing(respelt), "unlisted": _listing(unlisted), "merged": merged,
        "beyond_top": _listing(rest.select(name="label", becomes=pl.lit(other), events="events")),
    })


def _merge(values: pl.DataFrame, fixed: str | None) -> tuple[dict[str, str], dict[str, Any]]:
    """What labels become that equal others but for their case: the most frequent of them, the first among equals.

    Args:
        fixed: a label that always stays.
    """
    spellings: dict[str, list[str]] = {}
    counted = _by_count(values.filter(pl.col("events") > 0), "label")
    for label in counted["label"]:
        spellings.setdefault(label.casefold(), []).append(label)
    becomes: dict[str, str] = {}
    for alike in spellings.values():
        chosen = fixed if fixed in alike else alike[0]
        becomes |= {label: chosen for label in alike if label != chosen}
    merged = counted.filter(pl.col("label").is_in(list(becomes)))
    return becomes, _listing(merged.select(
        name="label", becomes=pl.col("label").replace(becomes), events="events"))


def _by_count(values: pl.DataFrame, name: str) -> pl.DataFrame:
    """Distinct names and their events, the most frequent first, then by name."""
    return values.group_by(name).agg(pl.col("events").sum()).sort("events", name, descending=[True, False])


def _listing(values: pl.DataFrame) -> dict[str, Any]:
    """How many names, how many events, and the most frequent of them, with their events."""
    most = values.sort("events", "name", descending=[True, False]).head(_LISTED)
    return {"names": values.height, "events": int(values["events"].sum()), "most": most.to_dicts()}
