import json
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.common.params import Evaluate
from stages.common.tables import SCHEMAS
from stages.ranking.accuracy import groups
from stages.ranking.outcomes import OUTSIDE, outcomes
from stages.ranking.summary import (
    balanced_metrics, difference_of, evaluate_balanced, evaluate_natural, metrics_of, natural_metrics,
)

EVALUATE = Evaluate(resamples=100, calibration_bins=10)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def log(vocabulary):
    """Events of 20 users; every third is a window of the natural, every fourth of the balanced test set."""
    count = 600
    names = [*vocabulary["behavior"], "unheard of"]
    events = pl.DataFrame({
        "user": np.repeat(np.arange(20, dtype=np.uint64), 30),
        "behavior": np.array(names)[rng(1).choice(6, count, p=[0.4, 0.2, 0.2, 0.1, 0.08, 0.02])],
    })
    row = np.arange(count)
    split = np.select([row % 3 == 1, row % 4 == 0], ["natural", "balanced"], "")
    return events, pl.DataFrame({"row": row, "split": split}).filter(pl.col("split") != "")


@pytest.fixture
def predictions(log, vocabulary, predict):
    events, windows = log

    def make(seed=0):
        behavior = events["behavior"].gather(windows["row"])
        label = behavior.replace_strict(vocabulary["behavior"], np.arange(5), default=OUTSIDE).to_numpy()
        frame = windows.with_columns(behavior=behavior, log_p=pl.Series(values=predict(label, 5, seed)))
        return frame.cast(SCHEMAS["predictions"])

    return make


def test_of_a_table_equals_of_its_arrays(log, predictions, vocabulary):
    events, windows = log
    frame = predictions()
    values = metrics_of(frame, events, vocabulary, EVALUATE, 0)
    for split in ("natural", "balanced"):
        part = frame.filter(pl.col("split") == split)
        log_p = np.array(part["log_p"].to_list(), dtype=np.float32)
        names = vocabulary["behavior"].to_list()
        label = np.array([names.index(name) if name in names else OUTSIDE for name in part["behavior"]])
        user = events["user"].gather(part["row"]).to_numpy()
        if split == "natural":
            expected = evaluate_natural(log_p, label, user, 10, 0, rng())
        else:
            expected = evaluate_balanced(log_p, label, user, vocabulary, 0, rng())
        for name in expected.keys() - {"interval"}:
            assert values[split][name] == expected[name]
        assert values[split]["outside_vocabulary"] == (label == OUTSIDE).sum() > 0


def test_is_json_with_each_value_inside_its_interval(log, predictions, vocabulary):
    values = metrics_of(predictions(), log[0], vocabulary, EVALUATE, 0)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    for split in values.values():
        for name, bounds in split["interval"].items():
            assert bounds["low"] < bounds["high"]
            if name != "ece":  # biased upwards in a resample
                assert bounds["low"] <= split[name] <= bounds["high"]


def test_seed_decides_the_intervals_and_order_does_not(log, predictions, vocabulary):
    events, _ = log
    frame = predictions()
    once = metrics_of(frame, events, vocabulary, EVALUATE, 0)
    assert metrics_of(frame, events, vocabulary, EVALUATE, 0) == once
    assert metrics_of(frame, events, vocabulary, EVALUATE, 1) != once
    shuffled = metrics_of(frame.sample(fraction=1, shuffle=True, seed=3), events, vocabulary, EVALUATE, 0)
    for split in once:
        for name, bounds in once[split]["interval"].items():
            assert shuffled[split]["interval"][name] == pytest.approx(bounds)


def test_every_model_has_the_same_keys_even_of_empty_test_sets(log, predictions, vocabulary):
    def keys(values):
        return {name: keys(value) for name, value in values.items()} if isinstance(values, dict) else None

    frame, events = predictions(), log[0]
    full = metrics_of(frame, events, vocabulary, EVALUATE, 0)
    empty = metrics_of(frame.clear(), events, vocabulary, EVALUATE, 0)
    assert keys(full) == keys(empty)
    assert empty["natural"]["windows"] == 0 and empty["natural"]["rec_w"] is None
    assert empty["balanced"]["interval"]["tail"] == {"low": None, "high": None}


def test_no_resamples_leave_intervals_null(log, predictions, vocabulary):
    values = metrics_of(predictions(), log[0], vocabulary, EVALUATE.model_copy(update={"resamples": 0}), 0)
    assert values["natural"]["interval"]["rec_w"] == {"low": None, "high": None}


def test_a_group_without_behaviours_is_null_and_counted(predict, vocabulary):
    label = np.array([0, 1, 2, 1, 0, 2])
    values = evaluate_balanced(predict(label, 5), label, np.arange(6), vocabulary, 10, rng())
    assert values["tail"] is None and values["interval"]["tail"] == {"low": None, "high": None}
    assert values["behaviors"] == {"overall": 3, "head": 1, "medium": 2, "tail": 0, "anchors": 2, "non_anchors": 1}
    assert values["by_behavior"]["gym"] == {"accuracy": None, "windows": 0}
    assert values["by_behavior"]["video"]["windows"] == 2


def test_a_perfect_model_has_perfect_intervals(vocabulary):
    label = np.arange(40) % 5
    log_p = np.full((40, 5), np.log(1e-9), dtype=np.float32)
    log_p[np.arange(40), label] = 0
    natural = evaluate_natural(log_p, label, np.arange(40) // 4, 10, 50, rng())
    balanced = evaluate_balanced(log_p, label, np.arange(40) // 4, vocabulary, 50, rng())
    for values, names in ((natural, ("rec_w", "prec_w", "mrr", "hr_at_3")), (balanced, ("overall", "tail"))):
        for name in names:
            assert values[name] == pytest.approx(1)
            assert values["interval"][name] == pytest.approx({"low": 1, "high": 1})


@given(st.integers(0, 1000), st.integers(2, 30))
@settings(max_examples=30)
def test_resampling_equals_repeating_the_windows(seed, count):
    generator = rng(seed)
    label = generator.integers(0, 4, count)
    log_p = np.log(generator.dirichlet(np.ones(4), count) + 1e-6).astype(np.float32)
    times = generator.integers(0, 3, count)
    times[0] += 1
    repeated = np.repeat(np.arange(count), times)
    members = {"overall": np.ones(4, bool), "half": np.arange(4) < 2}
    weighted, plain = outcomes(log_p, label), outcomes(log_p[repeated], label[repeated])
    ones, weights = np.ones((1, len(repeated))), times[None].astype(float)
    for metrics in (lambda w, o: natural_metrics(w, o, 4, 10), lambda w, o: balanced_metrics(w, o, members)):
        expected = metrics(ones, plain)
        for name, value in metrics(weights, weighted).items():
            assert value[0] == pytest.approx(expected[name][0], nan_ok=True)


def test_difference_of_two_models(log, predictions, vocabulary):
    events, _ = log
    first, second = predictions(0), predictions(1)
    values = difference_of(first, second.sample(fraction=1, shuffle=True, seed=1), events, vocabulary, EVALUATE, 0)
    alone = [metrics_of(frame, events, vocabulary, EVALUATE, 0) for frame in (first, second)]
    for split in ("natural", "balanced"):
        for name, value in values[split].items():
            assert value["difference"] == pytest.approx(alone[0][split][name] - alone[1][split][name])
            assert value["low"] < value["high"]


def test_refuses_a_difference_on_other_windows(log, predictions, vocabulary):
    with pytest.raises(UserError, match="different windows"):
        difference_of(predictions(), predictions().head(20), log[0], vocabulary, EVALUATE, 0)


def test_refuses_predictions_of_another_log_or_vocabulary(log, predictions, vocabulary):
    events, _ = log
    with pytest.raises(UserError, match="another log"):
        metrics_of(predictions(), events.reverse(), vocabulary, EVALUATE, 0)
    with pytest.raises(UserError, match="another log"):
        metrics_of(predictions(), events.head(50), vocabulary, EVALUATE, 0)
    with pytest.raises(UserError, match="vocabulary than this one of 4"):
        metrics_of(predictions(), events, vocabulary.head(4), EVALUATE, 0)


def test_a_thousand_resamples_of_twenty_thousand_windows_take_seconds():
    label, user = rng(1).integers(0, 35, 20_000), rng(2).integers(0, 2000, 20_000)
    log_p = np.log(rng(3).dirichlet(np.ones(35), 20_000) + 1e-9).astype(np.float32)
    start = time.process_time()
    evaluate_natural(log_p, label, user, 10, 1000, rng())
    assert time.process_time() - start < 15


def test_groups_cover_the_vocabulary(vocabulary):
    members = groups(vocabulary)
    assert (members["head"] ^ members["medium"] ^ members["tail"]).all()
    assert (members["anchors"] ^ members["non_anchors"]).all()
