"""What a person did before a window, counted: the whole past, linear in events and windows, never the window itself."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from stages.past.counts import counts_before, last_before
from stages.windows.past import NONE, Past

CONTEXTS: dict[str, tuple[str, ...]] = {
    "all": (), "hour": ("hour",), "place": ("place",), "place and hour": ("place", "hour"),
    "hour of such a day": ("weekend", "hour"), "weekday": ("weekday",), "after": ("last",),
    "after two": ("last", "second"), "after, at this place": ("last", "place"),
}
"""In which circumstances events are counted: those alike in all that is named. An hour is the one before and the one
after, too; `last` and `second` are what the person did just before, and before that."""

RECENT = (5, 20, 100)
"""Events are counted among the last so many, too."""

_CELLS, _CELLS_OF_PART = 250_000, 60_000
_EVENTS = 1_000_000
_HOURS = 24


@dataclass(frozen=True)
class Counted:
    """W windows with C candidates, numbered as `Past` does; C is enough for the window with the most.

    Attributes:
        allowed: which candidates a window has `(W, C)`.
        outside: which candidates the vocabulary does not hold `(W, C)`.
        label: what was done `(W,)`, `NONE` where it is no candidate.
        contexts: how often each candidate was done before, by the names of `CONTEXTS`, `(W, C)` each.
        recent: the same among the last so many events, by `RECENT`.
        since: seconds since each candidate was done, infinite for never `(W, C)`.
        gap: seconds since the event before, infinite where there is none `(W,)`.
        last: number of the event before, `NONE` where there is none `(W,)`.
        hour: 0 to 23 `(W,)`.
        weekday: 0 to 6, 0 is Monday `(W,)`.
        stays: whether the event before was at the same place `(W,)`.
    """

    allowed: np.ndarray
    outside: np.ndarray
    label: np.ndarray
    contexts: dict[str, np.ndarray]
    recent: dict[int, np.ndarray]
    since: np.ndarray
    gap: np.ndarray
    last: np.ndarray
    hour: np.ndarray
    weekday: np.ndarray
    stays: np.ndarray

    def parts(self) -> Iterator[tuple[slice, "Counted"]]:
        """The windows in parts whose numbers fit a processor's cache, and which they are."""
        windows = max(1, _CELLS_OF_PART // self.allowed.shape[1])
        for start in range(0, len(self.label), windows):
            part = slice(start, start + windows)
            found: dict[str, Any] = {}
            for each in fields(self):
                value = getattr(self, each.name)
                found[each.name] = {name: of[part] for name, of in value.items()} if isinstance(value, dict) else (
                    value[part])
            yield part, Counted(**found)


def pieces(past: Past, rows: np.ndarray) -> Iterator[slice]:
    """`rows`, sorted, in pieces that need little memory to be counted, however few of a log's events they are.

    A piece has at most some 250,000 cells of a window and a candidate, and a million events beside those before its
    first window: a person's past is counted again for each piece that has windows of theirs.
    """
    added = np.cumsum(rows - np.maximum(past.first[rows], np.append(0, rows[:-1])))
    start = 0
    while start < len(rows):
        stop = start + max(1, _CELLS // past.size)
        width = past.size + int(past.own[rows[start:stop]].max())
        stop = min(start + max(1, _CELLS // width), int(np.searchsorted(added, added[start] + _EVENTS, side="right")))
        yield slice(start, stop)
        start = stop


def count(past: Past, rows: np.ndarray) -> Counted:
    """What stands before the windows whose targets are `rows` `(W,)`, sorted, at least one."""
    width = past.size + int(past.own[rows].max())
    events = _events_before(past, rows)
    events = events[past.behavior[events] < width]
    number = past.behavior[events]
    recent = past.before(rows, max(RECENT))
    done = np.where(recent == NONE, width, np.minimum(past.behavior[recent], width))
    last = last_before(past.first[events], events, number, past.first[rows], rows, width)
    since = np.where(last == NONE, np.inf, past.seconds[rows][:, None] - past.seconds[last])
    before = recent[:, 0]
    candidates = np.arange(width)
    allowed = candidates < (past.size + past.own[rows])[:, None]
    label = past.behavior[rows]
    return Counted(
        allowed=allowed,
        outside=np.broadcast_to(candidates >= past.size, allowed.shape),
        label=np.where(label < past.size + past.own[rows], label, NONE),
        contexts=_contexts(past, rows, events, number, width),
        recent={many: _tally(done[:, :many], width) for many in RECENT},
        since=np.maximum(since, 0),
        gap=np.where(before == NONE, np.inf, np.maximum(past.seconds[rows] - past.seconds[before], 0)),
        last=np.where(before == NONE, NONE, past.behavior[before]),
        hour=past.hour[rows], weekday=past.weekday[rows],
        stays=(before != NONE) & (past.place[before] == past.place[rows]),
    )


def of_candidates(
    past: Past, rows: np.ndarray, log_p: Callable[[Counted, np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    """Log-probabilities of the candidates of each of `rows` `(W,)`, V and the person's own: float32 each.

    Args:
        log_p: of a piece's windows that were counted, and their rows, `(N, C)`.
    """
    order, found = np.argsort(rows, kind="stable"), []
    for piece in pieces(past, rows[order]):
        counted = count(past, at := rows[order][piece])
        found += [row[allowed] for row, allowed in zip(log_p(counted, at), counted.allowed, strict=True)]
    return [found[place] for place in np.argsort(order)]


def _events_before(past: Past, rows: np.ndarray) -> np.ndarray:
    """Rows of each person's events before the last of their windows, whose rows `(W,)` are sorted."""
    last = rows[np.append(np.diff(past.first[rows]) != 0, True)]
    first = past.first[last].astype(np.int64)
    lengths = last - first
    return np.arange(lengths.sum()) + np.repeat(first - np.cumsum(lengths) + lengths, lengths)


def _contexts(
    past: Past, rows: np.ndarray, events: np.ndarray, number: np.ndarray, width: int
) -> dict[str, np.ndarray]:
    here, there = ({part: _codes(past, part, at) for part in ("hour", "place", "weekend", "weekday", "last", "second")}
                   for at in (rows, events))
    sizes = {part: 1 + max(int(codes.max(initial=0)) for codes in (here[part], there[part])) for part in here}
    sizes["hour"] = _HOURS
    threefold, found = (np.tile(events, 3), np.tile(number, 3)), {}
    for name, parts in CONTEXTS.items():
        rest = [part for part in parts if part != "hour"]
        keys = [past.first[at].astype(np.int64) for at in (rows, events)]
        for part in rest:
            keys = [key * sizes[part] + codes[part] for key, codes in zip(keys, (here, there), strict=True)]
        if "hour" not in parts:
            found[name] = counts_before(keys[1], events, number, keys[0], rows, width)
            continue
        # an event counts for windows of its own hour and of those beside it
        near = np.concatenate([keys[1] * _HOURS + (there["hour"] + shift) % _HOURS for shift in (-1, 0, 1)])
        found[name] = counts_before(near, *threefold, keys[0] * _HOURS + here["hour"], rows, width)
    return found


def _codes(past: Past, part: str, rows: np.ndarray) -> np.ndarray:
    """A part of a context as numbers, 0 and up."""
    if part in ("last", "second"):
        before = past.before(rows, 2)[:, 0 if part == "last" else 1]
        return np.where(before == NONE, 0, past.behavior[before] + 1).astype(np.int64)
    return getattr(past, part)[rows].astype(np.int64) + (part == "place")


def _tally(numbers: np.ndarray, width: int) -> np.ndarray:
    """How often each number below `width` stands in each row of `numbers` `(W, n)`: `(W, width)`."""
    flat = np.arange(len(numbers))[:, None] * (width + 1) + numbers
    return np.bincount(flat.ravel(), minlength=len(numbers) * (width + 1)).reshape(len(numbers), -1)[:, :width]
