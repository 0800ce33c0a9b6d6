import numpy as np
import polars as pl
import pytest

from stages.common.tables import SCHEMAS
from stages.metrics.candidates import OUTSIDE


def normalised(scores):
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.fixture
def predict():
    """Random log-probabilities (N, V) that know the labels a little."""

    def make(label, size, seed=0):
        scores = np.random.default_rng(seed).normal(size=(len(label), size))
        known = np.flatnonzero(label != OUTSIDE)
        scores[known, label[known]] += 1
        return normalised(scores)

    return make


@pytest.fixture
def vocabulary():
    """Five behaviours: one head, two medium (one of them an anchor), two tail."""
    return pl.DataFrame({
        "behavior": ["video", "music", "taxi", "gym", "parcel"],
        "train_events": [900, 60, 30, 8, 2],
        "share": [0.9, 0.06, 0.03, 0.008, 0.002],
        "group": ["head", "medium", "medium", "tail", "tail"],
        "is_anchor": [True, True, False, False, False],
    })


@pytest.fixture
def labels():
    """Labels (300,) of the five behaviours, and their users (300,)."""
    rng = np.random.default_rng(1)
    return rng.choice(5, 300, p=[0.4, 0.3, 0.15, 0.1, 0.05]), rng.integers(0, 40, 300).astype(np.uint64)


@pytest.fixture
def log(vocabulary):
    """Events of 20 users, some of a behaviour that is not in the vocabulary, and windows of all four splits."""
    count = 600
    names = np.array([*vocabulary["behavior"], "unheard of"])
    rng = np.random.default_rng(1)
    events = pl.DataFrame({
        "user": np.repeat(np.arange(20), 30), "time": np.arange(count), "place": None,
        "behavior": names[rng.choice(6, count, p=[0.4, 0.2, 0.2, 0.1, 0.08, 0.02])], "offset": None,
    }).cast(SCHEMAS["events"])
    row = np.arange(count)
    splits = np.array(["natural", "balanced", "", "valid_natural", "natural", "valid_balanced", "balanced"])
    return events, pl.DataFrame({"row": row, "split": splits[row % 7]}).filter(pl.col("split") != "")


@pytest.fixture
def predictions(log, vocabulary, predict):
    """Makes a table `predictions` of the windows of `log`."""
    events, windows = log

    def make(seed=0):
        behavior = events["behavior"].gather(windows["row"])
        label = behavior.replace_strict(vocabulary["behavior"], np.arange(5), default=OUTSIDE).to_numpy()
        frame = windows.with_columns(behavior=behavior, log_p=pl.Series(values=predict(label, 5, seed)))
        return frame.cast(SCHEMAS["predictions"])

    return make
