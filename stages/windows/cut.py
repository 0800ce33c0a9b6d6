"""Events become windows: splits by user, the vocabulary of the training users, and the rows that are targets.

A window is the row of its target; its history are the rows before it in the table of events, which is sorted by
(user, time). Every choice is a hash of what it concerns, so that nothing moves when other users come or go.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from stages.common.draws import first_of_each, stream
from stages.common.errors import UserError
from stages.common.hashing import bits, uniform

FOLDS = 10
HEAD, TAIL = 0.05, 0.01  # shares of the training events: above is head, below is tail (Table 3 of the paper)

VALID_OUTSIDE = "valid_outside"
"""Split of validation users' windows whose behaviour no training user has: measured, and nothing is trained on them."""

_SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
_NOT_TRAINED = "not trained"
_SPLIT, _NATURAL, _BALANCED, _TRAINED = range(200, 204)  # what a hash is for


def split_users(users: np.ndarray, seed: int, fold: int = 0) -> np.ndarray:
    """`train`, `valid` or `test` for each pseudonym (uint64), 8:1:1 on average; depends on the arguments alone.

    Each `fold`, 0 to 9, tests another tenth of the users, so that all ten test everybody once; the tenth before the
    tested one is `valid`.
    """
    names = np.array(list(_SHARES))
    edges = np.cumsum(list(_SHARES.values()))[:-1]
    place = (uniform(seed, _SPLIT, users) + fold / FOLDS) % 1
    return names[np.searchsorted(edges, place, side="right")]


def with_fewer_trained(
    users: np.ndarray, split: np.ndarray, usable: np.ndarray, people: int, seed: int
) -> np.ndarray:
    """`split` `(U,)` with `people` of the usable ones of split train, a seeded choice; 0 keeps all.

    Who is left over is in a split of its own, from which no window is made.

    Raises:
        UserError: there are not so many.
    """
    if not people:
        return split
    train = np.flatnonzero((split == "train") & usable)
    if people > len(train):
        raise UserError(f"windowing.train_people: {people}: the log has {len(train)} such people with windows only")
    order = np.argsort(bits(seed, _TRAINED, users[train]), kind="stable")
    found = split.astype(f"<U{len(_NOT_TRAINED)}")
    found[split == "train"] = _NOT_TRAINED
    found[train[order[:people]]] = "train"
    return found


@dataclass
class Histories:
    """What windows need to know of the events, in few bytes a row, so that fifty million rows fit into memory.

    Attributes:
        events: the table `events`.
        users: pseudonyms `(U,)`, in the table's order.
        lengths: events of each user `(U,)`.
        labels: the distinct behaviours.
        behavior: each event's behaviour `(N,)`, as its place in `labels`.
    """

    events: pl.LazyFrame
    users: np.ndarray
    lengths: np.ndarray
    labels: pl.Series
    behavior: np.ndarray

    def per_event(self, of_user: np.ndarray) -> np.ndarray:
        """A value of each user `(U,)`, for each event `(N,)`."""
        return np.repeat(of_user, self.lengths)


def read_histories(events: pl.LazyFrame) -> Histories:
    """Read what windows need of the table `events`."""
    runs = events.select(pl.col("user")).collect(engine="streaming")["user"].rle().struct.unnest()
    categories = pl.Categories.random()
    behavior = events.select(pl.col("behavior").cast(pl.Categorical(categories))).collect(engine="streaming")
    labels = categories.to_series()  # as long as a column has them
    numbers = behavior["behavior"].to_physical().to_numpy().astype(np.min_scalar_type(len(labels)))
    return Histories(events, runs["value"].to_numpy(), runs["len"].to_numpy(), labels.alias("behavior"), numbers)


def train_vocabulary(log: Histories, is_train: np.ndarray, anchor_threshold: float) -> pl.DataFrame:
    """The table `vocabulary` of the events of those users for whom `is_train` `(U,)` says so."""
    counts = pl.Series("number", log.behavior[log.per_event(is_train)]).value_counts()
    counts = counts.select(log.labels.gather(counts["number"]), train_events=pl.col("count").cast(pl.Int64))
    return vocabulary(counts, anchor_threshold)


def vocabulary(counts: pl.DataFrame, anchor_threshold: float) -> pl.DataFrame:
    """The table `vocabulary` of behaviours (`behavior`, `train_events`): most frequent first, then by name."""
    share = pl.col("share")
    return (
        counts.sort("train_events", "behavior", descending=[True, False])
        .with_columns(share=pl.col("train_events") / pl.col("train_events").sum())
        .with_columns(
            group=pl.when(share > HEAD).then(pl.lit("head")).when(share < TAIL).then(pl.lit("tail"))
            .otherwise(pl.lit("medium")),
            is_anchor=share > anchor_threshold,
        )
    )


def without_some_tail(vocabulary_: pl.DataFrame, count: int, anchor_threshold: float, seed: int) -> pl.DataFrame:
    """The table `vocabulary` without `count` behaviours of its tail, a seeded choice: as if training had none of them.

    Raises:
        UserError: the tail has fewer.
    """
    tail = vocabulary_.filter(group="tail")["behavior"].sort()
    if count > len(tail):
        raise UserError(f"windowing.new_behaviors: {count}: the tail has {len(tail)} behaviours only")
    if not count:
        return vocabulary_
    new = tail[np.sort(stream(seed, "new behaviours").permutation(len(tail))[:count])]
    kept = vocabulary_.filter(~pl.col("behavior").is_in(new.implode()))
    return vocabulary(kept.select("behavior", "train_events"), anchor_threshold)


@dataclass
class Windows:
    """The rows of each split's windows, and what is rare or strange among them.

    Attributes:
        rows: by split. Only `natural` and `valid_outside` hold targets outside the vocabulary, the latter no others.
        out_of_vocabulary: windows of validation and test users whose behaviour no training user has, by behaviour;
            whether a test set drew them or not.
        natural_outside: how many of `natural` are such windows.
        balanced: windows of each behaviour of the vocabulary in the balanced set.
    """

    rows: dict[str, np.ndarray]
    out_of_vocabulary: dict[str, int]
    natural_outside: int
    balanced: dict[str, int]

    @property
    def table(self) -> pl.LazyFrame:
        """The table `windows`."""
        return pl.concat(pl.LazyFrame({"row": rows}, schema={"row": pl.Int64}).with_columns(split=pl.lit(name))
                         for name, rows in self.rows.items())


def make_windows(
    log: Histories, split: np.ndarray, behaviors: pl.Series, seed: int, min_history: int, natural: int,
    balanced_per_behavior: int,
) -> Windows:
    """Windows of all splits.

    The natural test set is drawn first, uniformly, and takes at most half of the test users' windows: only so it is
    "as it comes", and each behaviour loses the same share to it on average. That includes behaviours that no training
    user has: no model can foresee them, and without them its figures would be of easier people than come. The balanced
    set takes what it wants of the rest, of the vocabulary's behaviours. (Drawn first, the balanced set would leave no
    rare behaviour for the natural one.)

    Args:
        split: `train`, `valid` or `test` of each user `(U,)`.
        behaviors: labels of the vocabulary.
    """
    long_enough = _long_enough(log.lengths, min_history)
    numbers = np.arange(len(behaviors))  # of each label, -1 outside the vocabulary
    place = log.labels.replace_strict(behaviors, numbers, default=-1, return_dtype=pl.Int64).to_numpy()
    known = (place >= 0)[log.behavior]
    usable, outside = long_enough & known, long_enough & ~known
    strange = pl.Series("number", log.behavior[outside]).value_counts()
    strange = strange.select(log.labels.gather(strange["number"]), "count")
    strange = strange.sort("count", "behavior", descending=[True, False])

    test = np.flatnonzero(long_enough & log.per_event(split == "test"))
    keys, number = _keys(log, test), place[log.behavior[test]]
    order = np.argsort(bits(seed, _NATURAL, *keys), kind="stable")
    size = min(natural, len(test) // 2)
    as_it_comes, rest = order[:size], order[size:]
    rest = rest[number[rest] >= 0]
    rest = rest[np.argsort(bits(seed, _BALANCED, *keys)[rest], kind="stable")]
    balanced = rest[first_of_each(number[rest], balanced_per_behavior)]
    rows = {name: np.flatnonzero(usable & log.per_event(split == name)) for name in ("train", "valid")}
    rows[VALID_OUTSIDE] = np.flatnonzero(outside & log.per_event(split == "valid"))
    rows |= {"natural": np.sort(test[as_it_comes]), "balanced": np.sort(test[balanced])}
    counts = np.bincount(number[balanced], minlength=len(behaviors))
    return Windows(rows, dict(strange.iter_rows()), int((number[as_it_comes] < 0).sum()),
                   dict(zip(behaviors.to_list(), counts.tolist(), strict=True)))


def _long_enough(lengths: np.ndarray, min_history: int) -> np.ndarray:
    """Whether each event has `min_history` events of its user before it, for users' numbers of events `(U,)`."""
    ends = np.cumsum(lengths)
    starts = ends - lengths
    edge = np.zeros(int(lengths.sum()) + 1, np.int8)
    edge[starts] = 1
    edge[starts + np.minimum(lengths, min_history)] -= 1
    return np.cumsum(edge[:-1], dtype=np.int8) == 0


def _keys(log: Histories, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What identifies `rows` whatever other users do: user, time and how many events of the user stand before."""
    ends = np.cumsum(log.lengths)
    user = np.searchsorted(ends, rows, side="right")
    time = log.events.select(pl.col("time").to_physical()).collect(engine="streaming")["time"].gather(rows)
    return log.users[user], time.to_numpy(), rows - (ends - log.lengths)[user]
