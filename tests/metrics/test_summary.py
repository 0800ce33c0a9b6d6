import json
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, recall_score, top_k_accuracy_score

from stages.common.errors import UserError
from stages.metrics.settings import Evaluate
from stages.metrics.adjust import adjusted, tempered
from stages.metrics.decisions import choose_tau, choose_temperature
from stages.metrics.candidates import OUTSIDE
from stages.metrics.outcomes import outcomes
from stages.metrics.registry import groups, of_split
from stages.metrics.splits import TEST, Split, read_splits
from stages.metrics.summary import (
    difference, evaluate_balanced, evaluate_natural, evaluate_valid, measure,
)
from tests.metrics.weighted import sums

EVALUATE = Evaluate(tau="validation", temperature="validation", resamples=100, calibration_bins=10)


def rng(seed=0):
    return np.random.default_rng(seed)


def walk(values, path=()):
    """Every metric of a nested dict with the dict that it stands in and that of its bounds."""
    for name, value in values.items():
        if name == "interval":
            for metric, bounds in value.items():
                yield (*path, metric), values[metric], bounds
        elif isinstance(value, dict):
            if {"accuracy", "low", "high"} <= value.keys():
                yield (*path, name), value["accuracy"], value
            else:
                yield from walk(value, (*path, name))


def test_of_a_table_equals_of_its_splits(log, predictions, vocabulary):
    events, _ = log
    frame = predictions()
    values = measure(frame, events, vocabulary, EVALUATE, 0)
    splits = read_splits(frame, events, vocabulary)
    share, moved = vocabulary["share"].to_numpy(), values["adjusted"]
    assert moved["tau"] == choose_tau(splits["valid_balanced"], share, EVALUATE)
    for decided, tau in ((values, 0), (moved, moved["tau"])):
        natural, balanced = (replace(splits[name], log_p=adjusted(splits[name].log_p, share, tau)) for name in TEST)
        expected = {"natural": evaluate_natural(natural, 10, 0, rng()),
                    "balanced": evaluate_balanced(balanced, vocabulary, 0, rng())}
        for split, metrics in expected.items():
            for name in metrics.keys() - {"interval", "by_behavior"}:
                assert decided[split][name] == metrics[name]
            assert decided[split]["outside_candidates"] == (splits[split].label == OUTSIDE).sum() > 0


def test_calibrated_is_after_the_temperature(log, predictions, vocabulary):
    frame = predictions()
    values = measure(frame, log[0], vocabulary, EVALUATE, 0)
    splits = read_splits(frame, log[0], vocabulary)
    temperature = values["calibrated"]["temperature"]
    assert temperature == choose_temperature(splits["valid_natural"], EVALUATE)
    natural = replace(splits["natural"], log_p=tempered(splits["natural"].log_p, temperature))
    expected = evaluate_natural(natural, 10, 0, rng())
    for name in ("log_loss", "ece"):
        assert values["calibrated"]["natural"][name] == pytest.approx(expected[name])


def test_validation_scores_equal_scikit_learn(log, predictions, vocabulary):
    frame = predictions()
    values = measure(frame, log[0], vocabulary, EVALUATE, 0)
    splits, share = read_splits(frame, log[0], vocabulary), vocabulary["share"].to_numpy()
    natural, balanced = splits["valid_natural"], splits["valid_balanced"]
    assert values["valid"]["natural"]["windows"] == len(natural.label)

    def of_the_others(user):  # of 20 users, 0 to 19, the even are one half
        other = balanced.user % 2 != user % 2
        return choose_tau(balanced.part(other), share, EVALUATE)

    taus = {"plain": np.zeros(20), "adjusted": np.array([of_the_others(user) for user in range(20)])}
    assert taus["adjusted"][0] != taus["adjusted"][1]
    for which, tau in taus.items():
        log_p = {name: np.concatenate([adjusted(row[None], share, tau[user])
                                       for row, user in zip(split.log_p, split.user, strict=True)])
                 for name, split in (("natural", natural), ("balanced", balanced))}
        known, score = (balanced.label >= 0) & (balanced.label < 5), values["valid"][which]
        answer = log_p["balanced"].argmax(axis=1)
        assert score["overall"] == pytest.approx(
            recall_score(balanced.label[known], answer[known], labels=range(5), average="macro", zero_division=0)
        )
        assert score["rec_w"] == pytest.approx((log_p["natural"].argmax(axis=1) == natural.label).mean())
        known = natural.label != OUTSIDE
        p = np.exp(log_p["natural"][known].astype(float))
        expected = log_loss(natural.label[known], p / p.sum(axis=1, keepdims=True), labels=range(6))
        assert score["log_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.7])
def test_with_a_fixed_tau_the_validation_score_is_plain_scoring_at_it(log, predictions, vocabulary, tau):
    fixed = EVALUATE.model_copy(update={"tau": tau})
    values = measure(predictions(), log[0], vocabulary, fixed, 0)["valid"]["adjusted"]
    splits, share = read_splits(predictions(), log[0], vocabulary), vocabulary["share"].to_numpy()
    natural, balanced = (replace(splits[name], log_p=adjusted(splits[name].log_p, share, tau))
                         for name in ("valid_natural", "valid_balanced"))
    assert values == evaluate_valid(natural, balanced, vocabulary, 100, 0)


def test_tau_zero_and_temperature_one_are_the_plain_decision(log, predictions, vocabulary):
    plain = EVALUATE.model_copy(update={"tau": 0.0, "temperature": 1.0})
    values = measure(predictions(), log[0], vocabulary, plain, 0)
    assert values["adjusted"] == {"tau": 0, "natural": values["natural"], "balanced": values["balanced"]}
    assert values["valid"]["plain"] == values["valid"]["adjusted"]
    for name in ("log_loss", "ece"):
        assert values["calibrated"]["natural"][name] == pytest.approx(values["natural"][name])
        for bound, value in values["natural"]["interval"][name].items():
            assert values["calibrated"]["natural"]["interval"][name][bound] == pytest.approx(value)


def test_test_windows_decide_nothing(log, predictions, vocabulary):
    frame, other = predictions(0), predictions(1)
    valid = pl.col("split").str.starts_with("valid")
    mixed = pl.concat([frame.filter(valid), other.filter(~valid)])
    one, two = (measure(table, log[0], vocabulary, EVALUATE, 0) for table in (frame, mixed))
    assert one["adjusted"]["tau"] == two["adjusted"]["tau"]
    assert one["calibrated"]["temperature"] == two["calibrated"]["temperature"]
    assert one["valid"] == two["valid"] and one["natural"] != two["natural"]


def test_is_json_with_each_value_inside_its_interval(log, predictions, vocabulary):
    values = measure(predictions(), log[0], vocabulary, EVALUATE, 0)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    found = list(walk(values))
    # 20 of the natural windows: none is of a behaviour that is new, or of one of the four kinds of people
    assert len(found) == 2 * (20 + 7 + 5) + 2 + 2 * 3
    for path, value, bounds in found:
        if value is None:  # no such window
            assert bounds == {"low": None, "high": None}
            continue
        assert bounds["low"] <= bounds["high"], path
        if path[-1] != "ece":  # biased upwards in a resample
            assert bounds["low"] <= value <= bounds["high"], path


def test_seed_decides_the_intervals_and_order_does_not(log, predictions, vocabulary):
    events, _ = log
    frame = predictions()
    once = measure(frame, events, vocabulary, EVALUATE, 0)
    assert measure(frame, events, vocabulary, EVALUATE, 0) == once
    assert measure(frame, events, vocabulary, EVALUATE, 1) != once
    shuffled = measure(frame.sample(fraction=1, shuffle=True, seed=3), events, vocabulary, EVALUATE, 0)
    assert shuffled["adjusted"]["tau"] == once["adjusted"]["tau"]
    for (path, value, bounds), (_, other, moved) in zip(walk(once), walk(shuffled), strict=True):
        assert other == pytest.approx(value, abs=1e-3 if path[0] == "calibrated" else 1e-9), path
        for bound in ("low", "high"):
            assert moved[bound] == pytest.approx(bounds[bound], abs=1e-3 if path[0] == "calibrated" else 1e-9), path


def test_every_model_has_the_same_keys_even_of_empty_test_sets(log, predictions, vocabulary):
    def keys(values):
        return {name: keys(value) for name, value in values.items()} if isinstance(values, dict) else None

    frame, events = predictions(), log[0]
    full = measure(frame, events, vocabulary, EVALUATE, 0)
    empty = measure(frame.clear(), events, vocabulary, EVALUATE, 0)
    assert keys(full) == keys(empty)
    assert empty["natural"]["windows"] == 0 and empty["natural"]["rec_w"] is None
    assert empty["balanced"]["interval"]["tail"] == {"low": None, "high": None}
    assert (empty["adjusted"]["tau"], empty["calibrated"]["temperature"]) == (0, 1)
    assert empty["valid"]["plain"]["overall"] is None


def test_no_resamples_leave_intervals_null(log, predictions, vocabulary):
    values = measure(predictions(), log[0], vocabulary, EVALUATE.model_copy(update={"resamples": 0}), 0)
    assert values["natural"]["interval"]["rec_w"] == {"low": None, "high": None}


def test_balanced_means_equal_scikit_learn(predict, labels, vocabulary):
    label, user = labels
    log_p = predict(label, 5)
    values = evaluate_balanced(Split(log_p, label, user), vocabulary, 0, rng())
    recall = recall_score(label, log_p.argmax(axis=1), average=None)
    assert [value["accuracy"] for value in values["by_behavior"].values()] == pytest.approx(recall)
    assert values["overall"] == pytest.approx(recall.mean()) and values["tail"] == pytest.approx(recall[3:].mean())
    top_3 = [top_k_accuracy_score(label[label == own], log_p[label == own], k=3, labels=range(5)) for own in range(5)]
    assert values["hr_at_3"] == pytest.approx(np.mean(top_3))


def test_a_group_without_behaviours_is_null_and_counted(predict, vocabulary):
    label = np.array([0, 1, 2, 1, 0, 2])
    values = evaluate_balanced(Split(predict(label, 5), label, np.arange(6)), vocabulary, 10, rng())
    assert values["tail"] is None and values["interval"]["tail"] == {"low": None, "high": None}
    assert values["behaviors"] == {"overall": 3, "head": 1, "medium": 2, "tail": 0, "anchors": 2, "non_anchors": 1}
    assert values["by_behavior"]["gym"] == {"accuracy": None, "low": None, "high": None, "windows": 0}
    assert values["by_behavior"]["video"]["windows"] == 2


def test_a_perfect_model_has_perfect_intervals(vocabulary):
    label = np.arange(40) % 5
    log_p = np.full((40, 5), np.log(1e-9), dtype=np.float32)
    log_p[np.arange(40), label] = 0
    split = Split(log_p, label, np.arange(40) // 4)
    natural, balanced = evaluate_natural(split, 10, 50, rng()), evaluate_balanced(split, vocabulary, 50, rng())
    assert natural["aurc"] == pytest.approx(0)
    right = ("rec_w", "prec_w", "mrr", "hr_at_3", "hr_at_5", "accuracy_at_50", "accuracy_at_80")
    for values, names in ((natural, right), (balanced, ("overall", "tail", "hr_at_3"))):
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
    members = dict.fromkeys(("overall", "head", "medium", "tail", "anchors", "non_anchors"), np.arange(4) < 2)
    windows, plain = (sums(outcomes(log_p[rows], label[rows]), members) for rows in (slice(None), repeated))
    for split in TEST:
        expected = plain.measure(np.ones((1, len(repeated))), of_split(split))
        for name, value in windows.measure(times[None].astype(float), of_split(split)).items():
            assert value[0] == pytest.approx(expected[name][0], nan_ok=True)


def test_difference_of_two_models(log, predictions, vocabulary):
    events, _ = log
    first, second = predictions(0), predictions(1)
    values = difference(first, second.sample(fraction=1, shuffle=True, seed=1), events, vocabulary, EVALUATE, 0)
    alone = [measure(frame, events, vocabulary, EVALUATE, 0) for frame in (first, second)]
    for split in ("natural", "balanced"):
        for name, value in values[split].items():
            if alone[0][split][name] is None:  # no such window
                assert value == {"difference": None, "low": None, "high": None}
                continue
            assert value["difference"] == pytest.approx(alone[0][split][name] - alone[1][split][name])
            assert value["low"] <= value["high"]


def test_refuses_a_difference_on_other_windows(log, predictions, vocabulary):
    with pytest.raises(UserError, match="different windows"):
        difference(predictions(), predictions().head(20), log[0], vocabulary, EVALUATE, 0)


def test_a_thousand_resamples_of_twenty_thousand_windows_take_seconds():
    label, user = rng(1).integers(0, 35, 20_000), rng(2).integers(0, 2000, 20_000)
    log_p = np.log(rng(3).dirichlet(np.ones(35), 20_000) + 1e-9).astype(np.float32)
    start = time.process_time()
    evaluate_natural(Split(log_p, label, user), 10, 1000, rng())
    assert time.process_time() - start < 15


def test_groups_cover_the_vocabulary(vocabulary):
    members = groups(vocabulary)
    assert (members["head"] ^ members["medium"] ^ members["tail"]).all()
    assert (members["anchors"] ^ members["non_anchors"]).all()


def alone(log, predictions, users):
    """Events and predictions of only so many users."""
    events, found = log[0], predictions()
    return events, found.filter(events["user"].gather(found["row"]) < users)


def test_of_one_user_there_is_no_interval_over_users(log, predictions, vocabulary):
    """Low and high equal to the figure itself would say that it is certain."""
    events, found = alone(log, predictions, 1)
    values = measure(found, events, vocabulary, EVALUATE, 0)
    for section in (values["natural"], values["balanced"], values["adjusted"]["natural"],
                    values["calibrated"]["natural"], values["valid"]["plain"]):
        assert all(bounds == {"low": None, "high": None} for bounds in section["interval"].values())
    assert all(each["low"] is None is each["high"] for each in values["balanced"]["by_behavior"].values())
    gap = difference(found, found, events, vocabulary, EVALUATE, 0)
    assert all(each["low"] is None is each["high"] for split in gap.values() for each in split.values())


def test_a_behaviour_whose_windows_are_all_of_one_user_has_no_interval(log, predictions, vocabulary):
    events, found = log[0], predictions()
    user = events["user"].gather(found["row"])
    found = found.filter((found["behavior"] != "taxi") | (user == user[0]))
    balanced = measure(found, events, vocabulary, EVALUATE, 0)["balanced"]
    assert balanced["by_behavior"]["taxi"]["low"] is None and balanced["by_behavior"]["video"]["low"] is not None
    assert balanced["interval"]["overall"]["low"] is not None
