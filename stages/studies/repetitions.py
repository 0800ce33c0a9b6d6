"""What a study hands in, checked: rows whose repetitions can be paired, and their sums by user."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from stages.common.errors import UserError
from stages.metrics.candidates import OUTSIDE, OwnCandidates, same
from stages.metrics.registry import METRICS, groups
from stages.metrics.splits import Split, read_log_p, slots
from stages.metrics.sums import UserSums

SPLITS = ("natural", "balanced")
_BINS = 10  # of the calibration error

Groups = Mapping[str, np.ndarray]
Vocabularies: TypeAlias = pl.DataFrame | Mapping[int, pl.DataFrame]
"""One table `vocabulary` for the whole study, or one for each repetition's number (folds have other training users)."""


@dataclass(frozen=True)
class Repetition:
    """One run of a row.

    Attributes:
        number: its seed or fold. Rows are paired by it.
        predictions: table `predictions`, `log_p` as the row decides (adjusted, if it adjusts), of all candidates. Only
            the test windows are read.
        users: the user of each row of `predictions`, in its order; anything that sorts. Leaves this process nowhere.
        facts: what else is known of the run (τ, temperature, validation scores, seconds), for the JSON.
        own: the candidates behind the vocabulary, in the order of `predictions`; None where there are none.
        known: how many events of the person stand before each window, in that order; None where nobody counted them.
    """

    number: int
    predictions: pl.DataFrame
    users: np.ndarray | pl.Series
    facts: dict[str, Any] = field(default_factory=dict)
    own: OwnCandidates | None = None
    known: np.ndarray | None = None


@dataclass(frozen=True)
class RowResult:
    """One row of a study: a setting of the pipeline, run once or several times.

    Attributes:
        label: what people read; `name` where it is empty.
        paper: the paper's figures by metric, in our unit (0 to 1, nats).
    """

    name: str
    label: str
    repetitions: list[Repetition]
    paper: dict[str, float] | None = None


@dataclass(frozen=True)
class Prepared:
    """The rows' sums by repetition number, over users numbered alike in all of them.

    `outside` are the natural windows of behaviours that no candidate is, at each of `numbers`.
    """

    numbers: list[int]
    users: int
    windows: dict[str, list[int]]
    outside: list[int]
    sums: dict[str, dict[int, UserSums]]


def check(
    rows: Sequence[RowResult], vocabulary: Vocabularies, reference: str, metrics: Sequence[str], extra: Groups | None
) -> None:
    """Refuse what cannot be summarised, before any work.

    Raises:
        UserError: the reference is no row; two rows have one name; a row has no repetition, or one number twice; a
            metric is unknown; a group bears the name of a standing one or is no mask over the vocabulary.
    """
    names = [row.name for row in rows]
    if reference not in names:
        raise UserError(f"reference {reference!r} is no row of the study: " + (", ".join(names) or "it has none")
                        + _close(reference, names))
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"row {name!r} is there {names.count(name)} times; give each row its own name")
    for row in rows:
        numbers = [repetition.number for repetition in row.repetitions]
        if not numbers:
            raise UserError(f"row {row.name!r} has no repetition; run at least one")
        if len(set(numbers)) < len(numbers):
            raise UserError(f"row {row.name!r} has a repetition twice: {sorted(numbers)}")
    any_vocabulary = vocabulary if isinstance(vocabulary, pl.DataFrame) else next(iter(vocabulary.values()))
    standing = groups(any_vocabulary)
    for name, mask in (extra or {}).items():
        if name in standing:
            raise UserError(f"group {name!r} stands already; give yours another name than {', '.join(standing)}")
        if mask.dtype != np.bool_ or mask.shape != (any_vocabulary.height,):
            raise UserError(f"group {name!r}: expected a mask over the {any_vocabulary.height} behaviours of the "
                            f"vocabulary, found {mask.dtype} of shape {mask.shape}")
    known = [metric.name for metric in METRICS.values() if metric.comparable]
    known += [f"balanced.{name}" for name in extra or {}]
    for metric in metrics:
        if metric not in known:
            raise UserError(f"no metric {metric!r}" + (_close(metric, known) or "; known are " + ", ".join(known)))


def prepare(rows: Sequence[RowResult], vocabulary: Vocabularies, extra: Groups | None = None) -> Prepared:
    """Pair the rows' windows and sum their outcomes by user.

    Raises:
        UserError: two rows hold other windows at the same repetition, a behaviour's log-probabilities do not fit the
            vocabulary, or a repetition has no vocabulary.
    """
    keys: dict[int, tuple[str, pl.DataFrame, OwnCandidates | None]] = {}
    parts: dict[str, dict[int, tuple[pl.DataFrame, np.ndarray, OwnCandidates | None, np.ndarray | None]]] = {}
    for row in rows:
        parts[row.name] = {}
        for repetition in row.repetitions:
            part, users, own, events = _test_windows(row.name, repetition)
            key = part.select("split", "row", "behavior").with_columns(user=users)
            other, expected, candidates = keys.setdefault(repetition.number, (row.name, key, own))
            if not key.equals(expected) or not same(own, candidates):
                raise UserError(f"rows {other!r} and {row.name!r} hold other test windows at repetition "
                                f"{repetition.number}; they cannot be paired: run both on the same log and split")
            parts[row.name][repetition.number] = part, users.to_numpy(), own, events
    # numbered in the users' own order: draws depend on neither the order of rows nor that of windows
    every = np.unique(np.concatenate([users for row in parts.values() for _, users, *_ in row.values()]))
    known = _behaviors(vocabulary, extra or {}, list(keys))
    sums = {
        name: {number: _sums(name, number, part, np.searchsorted(every, users), own, events, *known[number])
               for number, (part, users, own, events) in row.items()}
        for name, row in parts.items()
    }
    numbers = sorted(keys)
    windows = {split: [int((keys[number][1]["split"] == split).sum()) for number in numbers] for split in SPLITS}
    outside = []
    for number in numbers:
        _, key, own = keys[number]
        missed = slots(key["behavior"], known[number][0], own) == OUTSIDE
        outside.append(int((missed & (key["split"] == "natural").to_numpy()).sum()))
    return Prepared(numbers, len(every), windows, outside, sums)


def _behaviors(
    vocabulary: Vocabularies, extra: Groups, numbers: Sequence[int]
) -> dict[int, tuple[pl.Series, dict[str, np.ndarray]]]:
    """At each repetition the vocabulary's behaviours and the masks of its groups.

    A group of `extra` is a mask over the first vocabulary, and goes by the behaviours' names in the others.
    """
    by_number = dict.fromkeys(numbers, vocabulary) if isinstance(vocabulary, pl.DataFrame) else vocabulary
    if missing := [number for number in numbers if number not in by_number]:
        raise UserError(f"repetition {missing[0]} has no vocabulary; there is one for {sorted(by_number)}")
    first = next(iter(by_number.values()))["behavior"]
    named = {name: first.filter(pl.Series(mask)).to_list() for name, mask in extra.items()}
    return {number: (found["behavior"], groups(found) | {
        name: found["behavior"].is_in(members).to_numpy() for name, members in named.items()
    }) for number, found in by_number.items()}


def _test_windows(
    name: str, repetition: Repetition
) -> tuple[pl.DataFrame, pl.Series, OwnCandidates | None, np.ndarray | None]:
    """The test windows, their users, own candidates and events known, in one order."""
    frame, users = repetition.predictions, pl.Series("user", repetition.users)
    if len(users) != len(frame):
        raise ValueError(f"row {name!r}, repetition {repetition.number}: {len(users)} users of {len(frame)} windows")
    ordered = frame.with_columns(users, place=np.arange(len(frame))).filter(pl.col("split").is_in(SPLITS)).sort(
        "split", "row")
    place = ordered["place"].to_numpy()
    own = repetition.own and repetition.own.part(place)
    known = None if repetition.known is None else repetition.known[place]
    return ordered.drop("user", "place"), ordered["user"], own if own and own.width else None, known


def _sums(
    name: str, number: int, part: pl.DataFrame, user: np.ndarray, own: OwnCandidates | None,
    known: np.ndarray | None, behavior: pl.Series, members: Groups,
) -> UserSums:
    size = len(behavior)
    if (part["log_p"].list.len().to_numpy() != size + (own.size if own else 0)).any():
        raise UserError(f"row {name!r}, repetition {number}: made with another vocabulary than this one of {size}")
    windows = Split(read_log_p(part, size), slots(part["behavior"], behavior, own), user, own, known)
    parts = {split: windows.part((part["split"] == split).to_numpy()) for split in SPLITS}
    return UserSums.of({split: (found.outcomes(), found.user) for split, found in parts.items()}, members, _BINS,
                       [metric for metric in METRICS.values() if metric.comparable])


def _close(name: str, known: Sequence[str]) -> str:
    # `tail` is as good a guess at `balanced.tail` as a slip of the pen is
    ends = [other for other in known if other.rpartition(".")[2] == name]
    close = ends or difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
