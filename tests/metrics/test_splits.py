import numpy as np
import polars as pl
import pytest

from stages.common.errors import UserError
from stages.metrics.candidates import OUTSIDE
from stages.metrics.splits import TEST, VALID, read_splits


def test_takes_a_table_apart(log, predictions, vocabulary):
    events, _ = log
    frame = predictions()
    names = vocabulary["behavior"].to_list()
    splits = read_splits(frame, events, vocabulary)
    assert tuple(splits) == TEST + VALID
    assert {OUTSIDE, 5} <= set(np.concatenate([split.label for split in splits.values()]).tolist())
    for name, split in splits.items():
        part = frame.filter(pl.col("split") == name)
        alone = split.own.size == 0
        expected = np.array(part["log_p"].to_list(), dtype=np.float32)[alone]
        np.testing.assert_array_equal(split.log_p[alone], np.pad(expected, [(0, 0), (0, 1)], constant_values=-np.inf))
        known = [names + ["unheard of"] * many for many in split.own.size]
        assert split.label.tolist() == [candidates.index(b) if b in candidates else OUTSIDE
                                        for candidates, b in zip(known, part["behavior"], strict=True)]
        np.testing.assert_array_equal(split.user, events["user"].gather(part["row"]).to_numpy())


def test_an_absent_split_has_no_window(log, predictions, vocabulary):
    frame = predictions().filter(pl.col("split") != "valid_natural")
    split = read_splits(frame, log[0], vocabulary)["valid_natural"]
    assert split.log_p.shape == (0, 5) and split.label.shape == split.user.shape == (0,)


def test_refuses_predictions_of_another_log_or_vocabulary(log, predictions, vocabulary):
    events, _ = log
    with pytest.raises(UserError, match="another log"):
        read_splits(predictions(), events.reverse(), vocabulary)
    with pytest.raises(UserError, match="another log"):
        read_splits(predictions(), events.head(50), vocabulary)
    with pytest.raises(UserError, match="vocabulary than this one of 4"):
        read_splits(predictions(), events, vocabulary.head(4))
