import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.windows.settings import Predictions
from stages.windows import tested as chosen  # pytest would take the function itself for a test

PARAMS = Predictions(valid_natural=10, valid_per_behavior=2)


def log(valid=60, test=40):
    """`valid` validation windows, then `test` test windows, of three behaviours; every event is a window."""
    count = valid + test
    behavior = np.random.default_rng(0).choice(["a", "b", "c"], count, p=[0.8, 0.15, 0.05])
    split = ["valid"] * valid + [("natural", "balanced")[row % 2] for row in range(test)]
    windows = pl.DataFrame({"row": range(count), "split": split}, schema={"row": pl.Int64, "split": pl.String})
    return pl.DataFrame({"behavior": behavior}), windows


@given(st.integers(1, 80), st.integers(1, 20), st.integers(1, 40), st.integers(1, 5), st.integers(0, 50))
def test_both_test_sets_and_two_disjoint_validation_sets(valid, test, natural, each, seed):
    events, windows = log(valid, test)
    params = Predictions(valid_natural=natural, valid_per_behavior=each)
    frame = chosen.tested(events, windows, params, seed)
    assert frame.columns == ["row", "split", "behavior"] and frame["row"].n_unique() == len(frame)
    assert set(frame["split"]) <= set(chosen.SPLITS) and frame.equals(frame.sort("split", "row"))
    assert frame["behavior"].equals(events["behavior"].gather(frame["row"]))
    there = windows.filter(pl.col("split") != "valid").sort("split", "row")
    assert frame.filter(pl.col("split").is_in(["natural", "balanced"])).select("row", "split").equals(there)
    assert (frame.filter(pl.col("split").str.starts_with("valid"))["row"] < valid).all()
    assert len(frame.filter(split="valid_natural")) == min(natural, valid // 2)
    counts = frame.filter(split="valid_balanced")["behavior"].value_counts()["count"]
    assert counts.min() >= 1 and counts.max() <= each


def test_every_behaviour_gets_what_there_is():
    events, windows = log(valid=200)
    frame = chosen.tested(events, windows, PARAMS, 0)
    rest = set(range(200)) - set(frame.filter(split="valid_natural")["row"])
    for behavior in ("a", "b", "c"):
        there = sum(events["behavior"][row] == behavior for row in rest)
        assert len(frame.filter(split="valid_balanced", behavior=behavior)) == min(2, there)


def test_validation_windows_outside_the_vocabulary_are_measured_as_they_come():
    events, windows = log(valid=400)
    outside = (pl.col("row") < 400) & (pl.col("row") % 2 == 0)
    windows = windows.with_columns(split=pl.when(outside).then(pl.lit("valid_outside")).otherwise("split"))
    frame = chosen.tested(events, windows, Predictions(valid_natural=150, valid_per_behavior=100), 0)
    natural = frame.filter(split="valid_natural")["row"]
    assert len(natural) == 150 and 0.35 < (natural % 2 == 0).mean() < 0.65
    assert (frame.filter(split="valid_balanced")["row"] % 2 == 1).all()


def test_the_seed_chooses_the_validation_windows_and_the_order_of_the_windows_does_not():
    events, windows = log()
    one = chosen.tested(events, windows, PARAMS, 0)
    assert chosen.tested(events, windows.sample(fraction=1, shuffle=True, seed=1), PARAMS, 0).equals(one)
    other = chosen.tested(events, windows, PARAMS, 1)
    assert not other.equals(one)
    valid = pl.col("split").str.starts_with("valid")
    assert other.filter(~valid).equals(one.filter(~valid))


@pytest.mark.parametrize(("split", "missing"), [("valid", "natural or balanced"), ("natural", "valid")])
def test_refuses_a_log_without_one_of_them(split, missing):
    events, windows = log()
    with pytest.raises(UserError, match=f"windows: none of split {missing}; the log has too few users"):
        chosen.tested(events, windows.filter(split=split), PARAMS, 0)
