"""The event log as arrays, ready to be rendered: what each prompt is made from."""

from dataclasses import dataclass

import numpy as np
import polars as pl

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True)
class EventLog:
    """N events, sorted by (user, time), without anything that identifies a user.

    `first` (N,) is the row of the same user's first event, `weekday` (N,) 0 = Monday, `hour` (N,) 0 to 23; `place` and
    `behavior` (N,) are numbers into `places` and `behaviors`. The first `vocabulary_size` of `behaviors` are the
    vocabulary in its order, the others occur in the log only.
    """

    first: np.ndarray
    weekday: np.ndarray
    hour: np.ndarray
    place: np.ndarray
    behavior: np.ndarray
    places: list[str]
    behaviors: list[str]
    vocabulary_size: int

    @classmethod
    def from_tables(cls, events: pl.DataFrame, vocabulary: pl.DataFrame) -> "EventLog":
        """From the tables `events` and `vocabulary`."""
        known = vocabulary["behavior"].to_list()
        others = sorted(set(events["behavior"].unique().to_list()) - set(known))
        behaviors, places = known + others, sorted(events["place"].unique().to_list())
        changes = (events["user"] != events["user"].shift(1)).fill_null(True).to_numpy()
        rows = np.arange(len(events))
        return cls(
            first=np.maximum.accumulate(np.where(changes, rows, 0)),
            weekday=events["time"].dt.weekday().to_numpy() - 1,
            hour=events["time"].dt.hour().to_numpy(),
            place=_codes(events["place"], places),
            behavior=_codes(events["behavior"], behaviors),
            places=places,
            behaviors=behaviors,
            vocabulary_size=len(known),
        )

    def history(self, row: int, length: int) -> range:
        """Rows of the last `length` events of the same user before `row`, oldest first."""
        return range(max(int(self.first[row]), row - length), row)


def _codes(column: pl.Series, values: list[str]) -> np.ndarray:
    return column.replace_strict(values, np.arange(len(values), dtype=np.int32), return_dtype=pl.Int32).to_numpy()
