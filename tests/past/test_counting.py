from collections import Counter

import numpy as np
import polars as pl
import pytest

from stages.past.counting import LastBehavior, Majority, Markov, MostFrequent
from stages.windows.past import Past
from tests.baselines.laws import labels_of, rows_of

BASELINES = (Majority, LastBehavior, lambda: MostFrequent(20), Markov)


def fit(baseline, events, windows, vocabulary):
    """Fitted, and the same again for any log: events to log-probabilities of rows."""
    fitted = baseline.fit(Past.from_tables(events, vocabulary), windows, vocabulary)
    return fitted, lambda events, rows: fitted.log_p(Past.from_tables(events, vocabulary), rows)


def loss_of(baseline, log, split="natural"):
    events, windows, vocabulary = log
    rows = rows_of(windows, split)
    label = labels_of(events, rows, vocabulary)
    log_p = fit(baseline, *log)[1](events, rows)
    return -log_p[np.arange(len(rows)), label][label >= 0].mean()


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("places", [True, False])
def test_gives_a_finite_distribution_over_the_vocabulary(log, baseline, places):
    events, windows, vocabulary = log(places=places)
    log_p = fit(baseline(), events, windows, vocabulary)[1](events, np.arange(events.height))
    assert log_p.shape == (events.height, vocabulary.height) and log_p.dtype == np.float32
    assert np.isfinite(log_p).all()
    np.testing.assert_allclose(np.exp(log_p.astype(float)).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("baseline", BASELINES)
def test_neither_the_target_nor_what_follows_changes_the_answer(log, baseline):
    events, windows, vocabulary = log()
    log_p = fit(baseline(), events, windows, vocabulary)[1]
    row = rows_of(windows, "natural")[10:11]
    future = pl.int_range(pl.len()) >= int(row[0])
    changed = events.with_columns(behavior=pl.when(future).then(pl.lit("rare")).otherwise("behavior"))
    np.testing.assert_array_equal(log_p(events, row), log_p(changed, row))


@pytest.mark.parametrize("baseline", BASELINES)
def test_learns_nothing_from_test_windows(log, baseline):
    events, windows, vocabulary = log()
    rows = rows_of(windows, "natural")
    test = pl.int_range(pl.len()) >= int(rows[0]) - 5
    changed = events.with_columns(behavior=pl.when(test).then(pl.lit("rare")).otherwise("behavior"))
    plain = fit(baseline(), events, windows, vocabulary)[1](events, rows)
    np.testing.assert_array_equal(fit(baseline(), changed, windows, vocabulary)[1](events, rows), plain)


@pytest.mark.parametrize("baseline", BASELINES)
def test_order_of_the_windows_does_not_matter(log, baseline, monkeypatch):
    monkeypatch.setattr(Markov, "valid_windows", 20)
    events, windows, vocabulary = log()
    rows = rows_of(windows, "natural")
    plain = fit(baseline(), events, windows, vocabulary)[1](events, rows)
    moved = fit(baseline(), events, windows.sample(fraction=1, shuffle=True, seed=1), vocabulary)[1]
    np.testing.assert_allclose(moved(events, rows[::-1])[::-1], plain, rtol=1e-5)


def test_majority_is_the_training_share(log):
    events, windows, vocabulary = log()
    log_p = fit(Majority(), events, windows, vocabulary)[1](events, np.arange(3))
    np.testing.assert_allclose(np.exp(log_p), np.tile(vocabulary["share"], (3, 1)), rtol=1e-5)


def test_last_behavior_answers_with_the_behaviour_before(log):
    events, windows, vocabulary = log()
    rows = rows_of(windows, "natural")
    answer = fit(LastBehavior(), events, windows, vocabulary)[1](events, rows).argmax(axis=1)
    np.testing.assert_array_equal(answer, labels_of(events, rows - 1, vocabulary))


def test_last_behavior_holds_against_a_majority_where_nothing_repeats(log):
    events, windows, vocabulary = log()
    turn = pl.int_range(pl.len()) % 2
    events = events.with_columns(behavior=pl.when(turn == 0).then(pl.lit("a")).otherwise(pl.lit("b")))
    vocabulary = vocabulary.with_columns(train_events=pl.when(pl.col("behavior") == "a").then(999).otherwise(1))
    rows = rows_of(windows, "natural")
    answer = fit(LastBehavior(), events, windows, vocabulary)[1](events, rows).argmax(axis=1)
    np.testing.assert_array_equal(answer, labels_of(events, rows - 1, vocabulary))


def test_most_frequent_counts_the_history_and_breaks_ties_by_share(log):
    events, windows, vocabulary = log()
    rows, behavior, names = rows_of(windows, "natural"), events["behavior"], vocabulary["behavior"].to_list()
    answer = fit(MostFrequent(7), events, windows, vocabulary)[1](events, rows).argmax(axis=1)
    user = events["user"].to_numpy()
    for row, number in zip(rows, answer, strict=True):
        past = [behavior[int(r)] for r in range(max(0, row - 7), row) if user[r] == user[row]]
        counts = Counter(past)
        assert names[number] == max(names, key=lambda name: (counts[name], -names.index(name)))


def test_markov_falls_back_level_by_level(log):
    events, windows, vocabulary = log(places=False)
    markov, log_p = fit(Markov(), events, windows, vocabulary)
    row = rows_of(windows, "natural")[3]
    train = rows_of(windows, "train")
    time, names = events["time"], vocabulary["behavior"].to_list()
    label = labels_of(events, train, vocabulary)
    facts = {
        "hour": lambda r: time[int(r)].hour,
        "weekend": lambda r: time[int(r)].weekday() >= 5,
        "last": lambda r: events["behavior"][int(r) - 1],
    }
    p = vocabulary["share"].to_numpy()
    for level, concentration in markov.concentration.items():
        assert "place" not in level
        if np.isfinite(concentration):
            alike = [all(facts[name](r) == facts[name](row) for name in level) for r in train]
            counts = np.bincount(label[alike], minlength=len(names))
            p = (counts + concentration * p) / (counts.sum() + concentration)
    np.testing.assert_allclose(np.exp(log_p(events, np.array([row])))[0], p, rtol=1e-5)


def test_markov_beats_the_others_where_hour_place_and_last_matter(log):
    data = log(users=200)
    losses = [loss_of(baseline(), data) for baseline in BASELINES]
    assert losses[3] < min(losses[:3]) - 0.1
    unplaced = loss_of(Markov(), (data[0].with_columns(place=pl.lit(None, pl.String)), *data[1:]))
    assert losses[3] < unplaced - 0.1


def test_markov_leaves_out_a_level_that_says_nothing(log):
    events, windows, vocabulary = log(users=200)
    shuffled = events.with_columns(behavior=events["behavior"].sample(fraction=1, shuffle=True, seed=0))
    majority, markov = (loss_of(baseline, (shuffled, windows, vocabulary)) for baseline in (Majority(), Markov()))
    assert markov == pytest.approx(majority, abs=0.01)


def test_markov_does_without_validation_windows_and_with_unseen_contexts(log):
    events, windows, vocabulary = log()
    markov, log_p = fit(Markov(), events, windows.filter(pl.col("split") != "valid"), vocabulary)
    assert set(markov.concentration.values()) == {Markov.unchosen}
    rows = rows_of(windows, "natural")
    elsewhere = events.with_columns(place=pl.lit("the moon"))
    without = events.with_columns(place=pl.lit(None, pl.String))
    np.testing.assert_array_equal(log_p(elsewhere, rows), log_p(without, rows))


def test_markov_names_no_place_of_one_person(log):
    events, windows, vocabulary = log()
    own = pl.col("user") == 3
    moved = events.with_columns(place=pl.when(own).then(pl.lit("a house of one's own")).otherwise("place"))
    markov, log_p = fit(Markov(), moved, windows, vocabulary)
    assert sorted(markov.places) == ["gym", "home"]
    rows = rows_of(windows, "natural")
    elsewhere, nowhere = (moved.with_columns(place=pl.lit(name)) for name in ("a house of one's own", "the moon"))
    np.testing.assert_array_equal(log_p(elsewhere, rows), log_p(nowhere, rows))
