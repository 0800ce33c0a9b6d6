"""The simulator: its oracle is what it samples from, its shares are the paper's, its logs belong to seed and user."""

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from scipy.stats import chisquare

from stages.common.hashing import uniform
from stages.events.simulator import log as simulator
from stages.events.simulator.days import PLACES
from stages.events.simulator.habits import HABITS
from stages.events.simulator.log import BEHAVIORS, simulate
from tests.events.helpers import simulated_log

SHARES = np.array([habit.share for habit in HABITS]) / sum(habit.share for habit in HABITS)


@pytest.fixture(scope="module")
def large():
    return simulate(0, np.arange(1500), 45, 12.0)


def state(**changes) -> simulator.State:
    """One commuter's state at 08:00 on the way to work, ten minutes after reading the news."""
    age = np.full((1, len(BEHAVIORS)), np.inf)
    age[0, BEHAVIORS.index("Reading news")] = 600
    moment = np.array([8 * len(PLACES) + PLACES.index("on the way")])
    values = {"taste": np.zeros((1, len(BEHAVIORS))), "moment": moment, "condition": np.array([0]),
              "last": np.array([BEHAVIORS.index("Reading news")]), "gap": np.array([600.0]), "age": age}
    return simulator.State(**(values | changes))


def test_samples_agree_with_the_oracle_for_a_fixed_state():
    p = simulator.probabilities(state())
    assert p.sum() == pytest.approx(1, abs=1e-6)
    draws = simulator.sample(np.repeat(p, 200_000, axis=0), uniform(11, np.arange(200_000)))
    expected = p[0].astype(float) / p[0].sum(dtype=float) * 200_000
    counts = np.bincount(draws, minlength=len(BEHAVIORS))
    rare = expected < 10
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    assert chisquare(counts, expected).pvalue > 0.001


def test_oracle_is_calibrated_over_a_log(large):
    _, behavior, p = large
    counts = np.bincount(behavior, minlength=len(BEHAVIORS))
    spread = np.sqrt((p * (1 - p)).sum(axis=0, dtype=float))
    assert np.abs((counts - p.sum(axis=0, dtype=float)) / spread).max() < 4.5
    happened = behavior[:, None] == np.arange(len(BEHAVIORS))
    edges = [0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1]
    for low, high in pairwise(edges):
        inside = (p > low) & (p <= high)
        error = np.sqrt((p[inside] * (1 - p[inside])).sum(dtype=float))
        assert abs(happened[inside].sum() - p[inside].sum(dtype=float)) < 4.5 * error, (low, high)


def test_shares_are_those_of_the_papers_table(large):
    ratio = np.bincount(large[1], minlength=len(BEHAVIORS)) / len(large[1]) / SHARES
    assert np.abs(ratio[SHARES > 0.01] - 1).max() < 0.1
    assert np.abs(ratio - 1).max() < 0.35


def test_calibration_finds_the_stored_base_rates():
    found = simulator.calibrate(users=400, rounds=6)
    common = SHARES > 0.01
    assert np.abs(found - simulator.BASE)[common].max() < 0.3


def test_context_tells_the_tail(large):
    _, behavior, p = large
    natural = (p.argmax(axis=1) == behavior).mean()
    corrected = (p / SHARES).argmax(axis=1)
    recall = np.array([(corrected[behavior == k] == k).mean() for k in range(len(BEHAVIORS))])
    assert 0.60 < natural < 0.75
    assert 0.5 < recall.mean() < 0.75
    assert recall[SHARES < 0.01].mean() > 0.6


def test_a_users_log_depends_on_seed_and_number_alone():
    together, many, p = simulate(3, np.arange(50), 20, 8.0)
    alone, one, q = simulate(3, np.array([17]), 20, 8.0)
    mine = together.user == 17
    assert np.array_equal(together.seconds[mine], alone.seconds)
    assert np.array_equal(together.place[mine], alone.place)
    assert np.array_equal(many[mine], one)
    assert np.array_equal(p[mine], q)
    assert not np.array_equal(simulate(4, np.array([17]), 20, 8.0)[1], one)


def test_blocks_change_nothing(monkeypatch):
    events, oracle = simulated_log(1, 30, 10, 6.0)
    monkeypatch.setattr(simulator, "_BLOCK", 7)
    again, oracle_again = simulated_log(1, 30, 10, 6.0)
    assert events.equals(again) and oracle.equals(oracle_again)
    assert events.equals(events.sort("user", "time", maintain_order=True))
    assert oracle["row"].to_list() == list(range(events.height))


@pytest.mark.parametrize(("days", "events_per_day"), [(1, 0.2), (1, 30.0), (400, 1.0)])
def test_odd_sizes(days, events_per_day):
    events, oracle = simulated_log(0, 20, days, events_per_day)
    assert events.height == oracle.height
    assert events["behavior"].is_in(BEHAVIORS).all()


def test_behaviours_trigger_each_other(large):
    plan, behavior, _ = large
    log = pl.DataFrame({"user": plan.user, "hours": plan.seconds / 3600, "behavior": behavior, "place": plan.place})
    number = {name: k for k, name in enumerate(BEHAVIORS)}
    before = pl.col("behavior").shift(1).over("user")
    bought = (pl.col("behavior") == number["Making payments"]) & (before == number["Shopping online"])
    log = log.with_columns(wait=pl.col("hours") - pl.when(bought).then("hours").forward_fill().over("user"))
    parcel = pl.col("behavior") == number["Picking up a parcel"]
    waiting = pl.col("wait").is_between(20, 110).fill_null(False)
    rates = log.select(after=parcel.filter(waiting).mean(), other=parcel.filter(~waiting).mean()).row(0)
    assert rates[0] > 3 * rates[1]
    checks_in = log.filter(pl.col("behavior") == number["Checking in at work"])
    assert (checks_in["place"] == PLACES.index("workplace")).mean() > 0.8
