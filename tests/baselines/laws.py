"""What holds of every baseline trained from nothing, whatever its body, and what tests need to ask for it.

`read` is a function of a batch: the scores, states or log-probabilities that a law is about.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from stages.baselines.fitting.sequences import Batch, Sequences
from stages.baselines.sequential.training import Recommender, predict
from stages.past.counting import Markov
from stages.windows.past import Past

Read = Callable[[Batch], torch.Tensor]
Log = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]

CONTEXTS = pytest.mark.parametrize("context", ["id", "history", "next"])
FIELDS_READ = pytest.mark.parametrize(
    ("context", "fields_read"), [("id", set()), ("history", {"hour"}), ("next", {"hour", "next_hour"})]
)
HOURS = {"hour": 24, "next_hour": 24}

_CHANGED_FROM = 5


def rows_of(windows: pl.DataFrame, split: str) -> np.ndarray:
    return windows.filter(pl.col("split") == split)["row"].to_numpy()


def labels_of(events: pl.DataFrame, rows: np.ndarray, vocabulary: pl.DataFrame) -> np.ndarray:
    """Numbers of the behaviours of events `rows`, -1 outside the vocabulary."""
    names = vocabulary["behavior"].to_list()
    return np.array([names.index(b) if b in names else -1 for b in events["behavior"].gather(rows)])


def one_batch(sequences: Sequences, size: int = 16) -> Batch:
    return next(iter(sequences.epoch(size, np.random.default_rng(0))))


def check_nothing_depends_on_a_later_behavior(
    read: Read, batch: Batch, size: int, rounding: float | None = None, change: float = 1e-8
) -> None:
    """
    Args:
        read: gives `(B, T, …)`.
        size: V.
        rounding: the absolute difference, beside a relative one of 1e-5, that is none; None: the same to the bit.
        change: the absolute difference, beside such a relative one, that what does depend must exceed.
    """
    before, behavior = read(batch), batch.behavior.clone()
    behavior[:, _CHANGED_FROM:] = (behavior[:, _CHANGED_FROM:] + 1) % size
    after, known = read(replace(batch, behavior=behavior)), ~batch.padding[:, :_CHANGED_FROM]
    earlier = [values[:, :_CHANGED_FROM][known] for values in (before, after)]
    assert len(earlier[0])
    assert torch.equal(*earlier) if rounding is None else torch.allclose(*earlier, atol=rounding)
    assert not torch.allclose(before[:, _CHANGED_FROM:], after[:, _CHANGED_FROM:], atol=change)


def check_reads(read: Read, batch: Batch, fields_read: Collection[str], fields: Mapping[str, int] = HOURS) -> None:
    """Of `fields`, and how many values each has, `fields_read` are read and no others; users never are."""
    before = read(batch)
    for field, count in fields.items():
        other = replace(batch, **{field: (getattr(batch, field) + 1) % count})
        assert torch.equal(before, read(other)) == (field not in fields_read), field
    assert torch.equal(before, read(replace(batch, user=batch.user + 1)))


def check_padding_changes_nothing(read: Read, sequences: Sequences, rounding: float = 1e-8) -> None:
    """Neither what stands at padding nor how much of it there is; `rounding` as above."""
    batch = sequences.windows(np.array([5, 6]))  # five and six events of history
    least = sequences.length - 6
    assert least and batch.padding[:, :least].all() and batch.padding[0, least]
    other = replace(batch, behavior=torch.where(batch.padding, 0, batch.behavior))
    shorter = batch.by_position(lambda field: field[:, least:])
    assert not torch.equal(batch.behavior, other.behavior)
    for each in (other, shorter):
        assert torch.allclose(read(batch), read(each), atol=rounding)


def check_knows_what_markov_knows(model: Recommender, sequences: Sequences, log: Log) -> None:
    """Of the chain of fixture `log`: on users never seen, nearly as often right as `trivial.Markov`, or oftener."""
    events, windows, vocabulary = log
    rows = rows_of(windows, "natural")
    label, log_p = labels_of(events, rows, vocabulary), predict(model, sequences, rows)
    assert np.allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-4)
    accuracy = (log_p.argmax(axis=1) == label).mean()
    past = Past.from_tables(events, vocabulary)
    markov = (Markov().fit(past, windows, vocabulary).log_p(past, rows).argmax(axis=1) == label).mean()
    assert accuracy > markov - 0.03 and accuracy > 0.5
