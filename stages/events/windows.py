"""Events become windows: splits by user, the vocabulary of the training users, and the rows that are targets.

A window is the row of its target; its history are the rows before it in the table of events, which is sorted by
(user, time). Every choice is a hash of what it concerns, so that nothing moves when other users come or go.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from stages.events.hashing import bits, uniform

HEAD, TAIL = 0.05, 0.01  # shares of the training events: above is head, below is tail (Table 3 of the paper)

_SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
_SPLIT, _NATURAL, _BALANCED = range(200, 203)  # what a hash is for


def split_of(users: np.ndarray, seed: int) -> np.ndarray:
    """`train`, `valid` or `test` for each pseudonym (uint64), 8:1:1 on average; depends on seed and pseudonym alone."""
    names = np.array(list(_SHARES))
    edges = np.cumsum(list(_SHARES.values()))[:-1]
    return names[np.searchsorted(edges, uniform(seed, _SPLIT, users), side="right")]


def positions(user: np.ndarray) -> np.ndarray:
    """How many events of the same user stand before each row, for rows sorted by user."""
    row = np.arange(len(user))
    first = np.concatenate([[True], user[1:] != user[:-1]])[: len(user)]
    return row - np.maximum.accumulate(np.where(first, row, 0))


def vocabulary(train: pl.DataFrame, anchor_threshold: float) -> pl.DataFrame:
    """The table `vocabulary` of the training users' events: most frequent first, then by name."""
    share = pl.col("share")
    return (
        train.group_by("behavior").agg(train_events=pl.len().cast(pl.Int64))
        .sort("train_events", "behavior", descending=[True, False])
        .with_columns(share=pl.col("train_events") / pl.col("train_events").sum())
        .with_columns(
            group=pl.when(share > HEAD).then(pl.lit("head")).when(share < TAIL).then(pl.lit("tail"))
            .otherwise(pl.lit("medium")),
            is_anchor=share > anchor_threshold,
        )
    )


@dataclass
class Windows:
    """The table `windows` and what did not get into it."""

    table: pl.DataFrame
    out_of_vocabulary: dict[str, int]  # windows of valid and test users whose label no training user has
    balanced: dict[str, int]  # windows of each behaviour in the balanced set


def windows(
    events: pl.DataFrame, split: np.ndarray, behaviors: pl.Series, seed: int, min_history: int, natural: int,
    balanced_per_behavior: int,
) -> Windows:
    """Windows of all splits.

    The natural test set is drawn first, uniformly, and takes at most half of the test users' windows: only so it is
    "as it comes", and each behaviour loses the same share to it on average. The balanced set takes what it wants of the
    rest. (Drawn first, the balanced set would leave no rare behaviour for the natural one.)

    Args:
        events: the table `events`.
        split: `train`, `valid` or `test` of each event's user.
        behaviors: labels of the vocabulary; a target outside it makes no window.
    """
    user, time = events["user"].to_numpy(), events["time"].to_physical().to_numpy()
    position = positions(user)
    number = _numbers(events["behavior"], behaviors)
    long_enough = position >= min_history
    strange = long_enough & (number < 0)
    usable = long_enough & (number >= 0)

    test = np.flatnonzero(usable & (split == "test"))
    order = np.argsort(bits(seed, _NATURAL, user[test], time[test], position[test]), kind="stable")
    size = min(natural, len(test) // 2)
    as_it_comes, rest = test[order[:size]], test[order[size:]]
    priority = bits(seed, _BALANCED, user[rest], time[rest], position[rest])
    balanced = _balanced(number[rest], priority, balanced_per_behavior)
    chosen = {
        "train": np.flatnonzero(usable & (split == "train")), "valid": np.flatnonzero(usable & (split == "valid")),
        "natural": np.sort(as_it_comes), "balanced": np.sort(rest[balanced]),
    }
    counts = np.bincount(number[rest[balanced]], minlength=len(behaviors))
    lost = events["behavior"].filter(pl.Series(strange)).value_counts()
    lost = lost.sort("count", "behavior", descending=[True, False])
    return Windows(
        pl.concat(pl.DataFrame({"row": rows, "split": pl.repeat(name, len(rows), dtype=pl.String, eager=True)})
                  for name, rows in chosen.items()),
        dict(lost.iter_rows()), dict(zip(behaviors.to_list(), counts.tolist(), strict=True)),
    )


def _numbers(labels: pl.Series, behaviors: pl.Series) -> np.ndarray:
    """The place of each label in `behaviors`, -1 for labels that are not there."""
    return labels.replace_strict(behaviors, np.arange(len(behaviors)), default=-1, return_dtype=pl.Int64).to_numpy()


def _balanced(number: np.ndarray, priority: np.ndarray, most: int) -> np.ndarray:
    """Places of at most `most` entries of each number, those of lowest priority."""
    order = np.lexsort((priority, number))
    return order[positions(number[order]) < most]
