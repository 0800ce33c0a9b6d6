"""The log as sequences of numbers, left-padded to one length: what every baseline reads that is no language model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch

from stages.common.draws import positions
from stages.common.errors import UserError
from stages.prompts.log import EventLog

NO_ROW = -1
NO_LABEL = -100
"""A label that no loss counts, as torch's losses have it."""

SPECIAL = 3
"""Numbers behind the V behaviours: one for all that are outside the vocabulary, padding, and a mask."""

_WEEKDAYS, _HOURS = 7, 24


@dataclass(frozen=True)
class Batch:
    """B sequences of T events, oldest first, left-padded; every field but the last is a long tensor `(B, T)`.

    `behavior` is below V, or V + 0, 1, 2 for one outside the vocabulary, padding, and a mask. `weekday`, `hour` and
    `place` are those of the event; `next_…` those of the event after it, which is the one to predict; the last number
    of each is padding's. `label` is the behaviour of the event after it, `NO_LABEL` where none is to be learned. `user`
    `(B,)` is the same number in sequences of the same user, and nothing else: no baseline may have it as an input.
    """

    behavior: torch.Tensor
    weekday: torch.Tensor
    hour: torch.Tensor
    place: torch.Tensor
    next_weekday: torch.Tensor
    next_hour: torch.Tensor
    next_place: torch.Tensor
    label: torch.Tensor
    user: torch.Tensor

    @property
    def padding(self) -> torch.Tensor:
        """`(B, T)`: True where there is no event. By weekday: padding has one of its own."""
        return self.weekday == _WEEKDAYS

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def by_position(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """With every field changed that has positions, that is all but `user`; the sequences stay as many."""
        names = self.__dataclass_fields__.keys() - {"user"}
        return replace(self, **{name: change(getattr(self, name)) for name in names})


class Sequences:
    """Training targets cut into sequences, and windows, as `Batch`es.

    Attributes:
        size: V, the behaviours of the vocabulary.
        places: how many places a training event has; one number more is for others, and one for padding.
        length: T, the events of history that a window has at most.
    """

    def __init__(
        self, events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, length: int,
        usual: int | None = None,
    ):
        """
        Args:
            usual: the events of history of the sequences that numbers of sequences are said for; None: T.
        """
        log = EventLog.from_tables(events, vocabulary)
        self.size, self.length = vocabulary.height, length
        self._usual = length if usual is None else usual
        self.names = vocabulary["behavior"].to_list()
        self._rows = {split: windows.filter(split=split)["row"].sort().to_numpy() for split in ("train", "valid")}
        for split, rows in self._rows.items():
            if not len(rows):
                raise UserError(f"windows: none of split {split}; the log has too few users, or too short ones")
        self._first = log.first
        self._behavior = np.minimum(log.behavior, self.size)
        self._weekday, self._hour = log.weekday.astype(np.int64), log.hour.astype(np.int64)
        known = np.unique(log.place[self._rows["train"]])
        self.places = len(known)
        number = np.full(len(log.places), self.places)
        number[known] = np.arange(self.places)
        self._place = number[log.place]
        self._position = positions(events["user"].to_numpy())

    @property
    def contexts(self) -> tuple[int, int, int]:
        """How many numbers weekdays, hours and places have, padding's included."""
        return _WEEKDAYS + 1, _HOURS + 1, self.places + 2

    def valid_rows(self, most: int, seed: int) -> np.ndarray:
        """Rows of at most `most` validation windows, a seeded choice, sorted."""
        rows = self._rows["valid"]
        return np.sort(np.random.default_rng(seed).permutation(rows)[:most])

    def known(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the windows `rows` whose behaviour is in the vocabulary, and its numbers: `(N,)` each."""
        label = self._behavior[rows]
        return rows[label < self.size], label[label < self.size]

    def train_rows(self) -> np.ndarray:
        """Rows of all training windows, sorted."""
        return self._rows["train"]

    def as_many_events(self, sequences: int) -> int:
        """How many sequences of T events have the events of so many usual ones; at least one."""
        return max(1, sequences * self._usual // self.length)

    def epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Every training target once, cut anew each time, in shuffled batches.

        A user's events are cut at a random place and then every T events, so that a target is met with any length of
        history from one event up to T, and never twice in an epoch. A batch has as many events as `batch_size` usual
        sequences: each may be a target, so that a step learns from as many of them.
        """
        rows, label = self._cut(rng)
        batch_size = self.as_many_events(batch_size)
        order = rng.permutation(len(rows))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield self._batch(rows[chosen], label[chosen])

    def whole_windows(self, batch_size: int, rng: np.random.Generator, most: int) -> Iterator[Batch]:
        """At most `most` training windows, drawn anew each time, in batches: whole histories, the last label alone."""
        rows = rng.permutation(self._rows["train"])[:most]
        for start in range(0, len(rows), batch_size):
            yield self.windows(rows[start : start + batch_size])

    def windows(self, rows: np.ndarray) -> Batch:
        """The windows whose targets are `rows` `(N,)`; the label stands at the last position, the others have none."""
        label = np.full((len(rows), self.length), NO_LABEL)
        target = self._behavior[rows]
        label[:, -1] = np.where(target < self.size, target, NO_LABEL)
        return self._batch(self._before(rows), label)

    def _cut(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows `(C, T + 1)`, `NO_ROW` for padding, and labels `(C, T)` of this epoch's sequences."""
        train = self._rows["train"]
        users, of_user = np.unique(self._first[train], return_inverse=True)
        cut = (self._position[train] + rng.integers(0, self.length, size=len(users))[of_user]) // self.length
        begins = np.append(True, (np.diff(of_user) != 0) | (np.diff(cut) != 0))
        piece = np.full(len(self._position), NO_ROW)
        piece[train] = np.cumsum(begins) - 1
        ends = train[np.append(begins[1:], True)]
        rows = self._before(ends)
        own = (piece[rows[:, 1:]] == np.arange(len(ends))[:, None]) & (rows[:, :-1] != NO_ROW)
        return rows, np.where(own, self._behavior[rows[:, 1:]], NO_LABEL)

    def _before(self, rows: np.ndarray) -> np.ndarray:
        """`rows` `(N,)` and the T rows before each, `(N, T + 1)`, `NO_ROW` where the user had none."""
        found = rows[:, None] + np.arange(-self.length, 1)
        return np.where(found >= self._first[rows][:, None], found, NO_ROW)

    def _batch(self, rows: np.ndarray, label: np.ndarray) -> Batch:
        there, at = rows != NO_ROW, np.maximum(rows, 0)
        weekday, hour, place = (
            np.where(there, values[at], padding)
            for values, padding in ((self._weekday, _WEEKDAYS), (self._hour, _HOURS), (self._place, self.places + 1))
        )
        behavior = np.where(there, self._behavior[at], self.size + 1)
        now, later = np.s_[:, :-1], np.s_[:, 1:]
        fields = (behavior[now], weekday[now], hour[now], place[now], weekday[later], hour[later], place[later], label,
                  self._first[rows[:, -1]])
        return Batch(*(torch.from_numpy(np.ascontiguousarray(field)).long() for field in fields))
