"""Windows: whose they are, which split they are in, and what the test sets hold."""

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.common.draws import positions
from stages.common.errors import UserError
from stages.common.hashing import bits, uniform
from stages.windows import cut as windows
from tests.events.helpers import simulated_log
from tests.small_log import vocabulary_of


@pytest.fixture(scope="module")
def events():
    return simulated_log(0, 120, 20, 8.0)[0]


def make(events, seed=0, min_history=5, natural=200, balanced=20, behaviors=None):
    log = windows.read_histories(events.lazy())
    split = windows.split_users(log.users, seed)
    if behaviors is None:
        behaviors = windows.train_vocabulary(log, split == "train", 0.01)["behavior"]
    return windows.make_windows(log, split, behaviors, seed, min_history, natural, balanced)


def labelled(events, made):
    table = made.table.collect()
    return table.with_columns(events[table["row"]])


def test_split_is_8_1_1_and_belongs_to_seed_and_user():
    users = bits(1, np.arange(20_000))
    split = windows.split_users(users, 0)
    shares = {name: (split == name).mean() for name in ("train", "valid", "test")}
    assert shares == pytest.approx({"train": 0.8, "valid": 0.1, "test": 0.1}, abs=0.01)
    assert np.array_equal(windows.split_users(users[::7], 0), split[::7])
    assert (windows.split_users(users, 1) != split).mean() > 0.2


def test_ten_folds_test_everybody_once_and_validate_everybody_once():
    users = bits(1, np.arange(20_000))
    folds = np.stack([windows.split_users(users, 0, fold) for fold in range(windows.FOLDS)])
    assert ((folds == "test").sum(axis=0) == 1).all() and ((folds == "valid").sum(axis=0) == 1).all()
    assert ((folds == "train").sum(axis=0) == windows.FOLDS - 2).all()
    for split in folds:
        assert (split == "test").mean() == pytest.approx(0.1, abs=0.01)
    for fold in range(windows.FOLDS):
        following = folds[(fold + 1) % windows.FOLDS]
        assert np.array_equal(folds[fold] == "valid", following == "test"), "who validates is tested next"


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30))
def test_a_fold_of_a_user_belongs_to_seed_and_user(seed, fold, users):
    users = np.array(users, dtype=np.uint64)
    split = windows.split_users(users, seed, fold)
    assert [str(windows.split_users(users[at : at + 1], seed, fold)[0]) for at in range(len(users))] == split.tolist()


def test_fold_0_is_8_1_1_by_the_users_hash_itself():
    users = bits(1, np.arange(20_000))
    split = windows.split_users(users, 3, 0)
    place = uniform(3, 200, users)  # as the split was before there were folds, so that earlier results stay
    assert split.tolist() == ["train" if at < 0.8 else "valid" if at < 0.9 else "test" for at in place]
    assert np.array_equal(split, windows.split_users(users, 3))


def test_users_are_disjoint_between_splits(events):
    made = labelled(events, make(events))
    test = pl.col("split").is_in(["natural", "balanced"])
    splits = made.with_columns(split=pl.when(test).then(pl.lit("test")).otherwise("split")).group_by("user").agg(
        pl.col("split").n_unique())
    assert splits["split"].max() == 1
    assert made["row"].is_unique().all()


def test_nothing_of_another_user_in_a_history(events):
    made = make(events, min_history=5)
    user = events["user"].to_numpy()
    rows = made.table.collect()["row"].to_numpy()
    for back in range(1, 6):
        assert (user[rows - back] == user[rows]).all()


def test_every_window_of_train_and_valid_users_is_there(events):
    made = make(events)
    lengths = events["user"].rle().struct.unnest()
    split = windows.split_users(lengths["value"].to_numpy(), 0)
    expected = (lengths["len"].cast(pl.Int64) - 5).clip(lower_bound=0).to_numpy()
    assert len(made.rows["train"]) == expected[split == "train"].sum()
    assert len(made.rows["valid"]) + len(made.rows["valid_outside"]) == expected[split == "valid"].sum()


def test_other_users_change_nothing_for_a_user(events):
    made = labelled(events, make(events, natural=10**6, balanced=10**6))
    fewer = events.filter(pl.col("user") % 3 != 0)
    train = windows.split_users(events["user"].to_numpy(), 0) == "train"
    behaviors = vocabulary_of(events.filter(pl.Series(train)), 0.01)["behavior"]
    again = labelled(fewer, make(fewer, natural=10**6, balanced=10**6, behaviors=behaviors))
    key = ["user", "time", "behavior"]
    trained = pl.col("split").is_in(["train", "valid", "valid_outside"])
    assert again.filter(trained).select(key, "split").equals(
        made.filter(trained & (pl.col("user") % 3 != 0)).select(key, "split"))


def test_test_sets_have_their_sizes_and_are_disjoint(events):
    made = make(events, natural=300, balanced=15)
    natural, balanced = (set(made.rows[name].tolist()) for name in ("natural", "balanced"))
    assert len(natural) == 300 and not natural & balanced
    counts = events[sorted(balanced)]["behavior"].value_counts()
    assert counts["count"].max() == 15
    assert {name: count for name, count in made.balanced.items() if count} == dict(counts.iter_rows())


def test_balanced_takes_all_that_natural_leaves_of_rare_behaviours(events):
    made = labelled(events, make(events, natural=300, balanced=10**6))
    whole = labelled(events, make(events, natural=10**6, balanced=10**6))
    tests = pl.col("split").is_in(["natural", "balanced"])
    assert made.filter(tests)["row"].sort().equals(whole.filter(tests)["row"].sort())


def test_natural_takes_at_most_half(events):
    made = make(events, natural=10**6, balanced=10**6)
    sizes = {name: len(made.rows[name]) for name in ("natural", "balanced")}
    assert abs(sizes["natural"] - sizes["balanced"]) <= 1


def test_natural_is_as_it_comes():
    events = simulated_log(0, 600, 30, 12.0)[0]
    split = windows.split_users(events["user"].to_numpy(), 0)
    made = labelled(events, make(events, natural=4000))
    top = events.filter(pl.Series(split == "test"))["behavior"].value_counts(normalize=True, sort=True).head(5)
    for name, share in top.iter_rows():
        found = (made.filter(split="natural")["behavior"] == name).mean()
        assert abs(found - share) < 4.5 * np.sqrt(share / 4000)


def test_windows_outside_the_vocabulary_are_counted_and_only_measured(events):
    behaviors = events["behavior"].value_counts(sort=True)["behavior"]
    known, strange = behaviors.head(3), behaviors[3]
    made = make(events, behaviors=known)
    frame = labelled(events, made)
    for split in ("train", "valid", "balanced"):
        assert set(frame.filter(split=split)["behavior"]) == set(known)
    assert not set(frame.filter(split="valid_outside")["behavior"]) & set(known)
    position = positions(events["user"].to_numpy())
    assert made.out_of_vocabulary[strange] == ((events["behavior"] == strange).to_numpy() & (position >= 5)).sum()
    assert made.natural_outside == (~frame.filter(split="natural")["behavior"].is_in(known.implode())).sum() > 0


def test_the_natural_set_holds_as_many_windows_outside_the_vocabulary_as_come():
    """A real listening log had 57 % of them: left out, they hid that no model can be right more often than 43 %."""
    events = simulated_log(0, 600, 30, 12.0)[0]
    known = events["behavior"].value_counts(sort=True)["behavior"].head(8)
    made = make(events, natural=4000, behaviors=known)
    split = pl.Series(windows.split_users(events["user"].to_numpy(), 0))
    can_be_tested = pl.Series(positions(events["user"].to_numpy()) >= 5) & (split == "test")
    share = (~events.filter(can_be_tested)["behavior"].is_in(known.implode())).mean()
    assert 0.1 < share < 0.9
    assert made.natural_outside / len(made.rows["natural"]) == pytest.approx(share, abs=4.5 * np.sqrt(share / 4000))


@given(st.integers(0, 6), st.integers(1, 400))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_known_changes_no_natural_set(events, behaviors, natural):
    """The set is drawn before anybody asks what the vocabulary holds."""
    names = events["behavior"].unique().sort()
    every, fewer = (make(events, natural=natural, behaviors=some) for some in (names, names.head(2 + behaviors)))
    assert every.rows["natural"].tolist() == fewer.rows["natural"].tolist()
    assert every.natural_outside == 0


def test_vocabulary_is_ordered_and_grouped():
    counts = {"b": 60, "a": 60, "c": 12, "d": 50 * 50 - 135, "e": 3}
    train = pl.DataFrame({"behavior": [name for name, n in counts.items() for _ in range(n)]})
    table = vocabulary_of(train, 0.02)
    assert table["behavior"].to_list() == ["d", "a", "b", "c", "e"]
    assert table["group"].to_list() == ["head", "medium", "medium", "tail", "tail"]
    assert table["is_anchor"].to_list() == [True, True, True, False, False]
    assert table["share"].sum() == pytest.approx(1)


@given(st.lists(st.integers(0, 5), max_size=60).map(sorted))
def test_positions_count_within_a_user(users):
    position = positions(np.array(users, np.uint64))
    assert position.tolist() == [users[:row].count(user) for row, user in enumerate(users)]


def test_new_behaviours_are_of_the_tail_and_in_no_training_window(events):
    log = windows.read_histories(events.lazy())
    split = windows.split_users(log.users, 0)
    whole = windows.train_vocabulary(log, split == "train", 0.01)
    less = windows.without_some_tail(whole, 3, 0.01, 0)
    new = set(whole["behavior"]) - set(less["behavior"])
    assert len(new) == 3 and new <= set(whole.filter(group="tail")["behavior"])
    assert less["share"].sum() == pytest.approx(1)
    assert new != set(whole["behavior"]) - set(windows.without_some_tail(whole, 3, 0.01, 1)["behavior"])
    made = labelled(events, make(events, behaviors=less["behavior"]))
    assert not set(made.filter(pl.col("split").is_in(["train", "balanced"]))["behavior"]) & new
    assert set(labelled(events, make(events, natural=10_000, behaviors=less["behavior"]))["behavior"]) & new
    assert windows.without_some_tail(whole, 0, 0.01, 0).equals(whole)
    with pytest.raises(UserError, match=r"windowing\.new_behaviors: 1000: the tail has \d+"):
        windows.without_some_tail(whole, 1000, 0.01, 0)


def test_fewer_people_are_trained_on_and_the_test_stays(events):
    log = windows.read_histories(events.lazy())
    split, usable = windows.split_users(log.users, 0), log.lengths > 5
    some, few = (windows.with_fewer_trained(log.users, split, usable, people, 0) for people in (20, 5))
    assert (some == "train").sum() == 20 and (few == "train").sum() == 5
    assert set(np.flatnonzero(few == "train")) <= set(np.flatnonzero(some == "train"))
    for name in ("valid", "test"):
        assert np.array_equal(few == name, split == name)
    names = windows.train_vocabulary(log, split == "train", 0.01)["behavior"]
    whole, less = (windows.make_windows(log, each, names, 0, 5, 200, 20) for each in (split, few))
    assert len(less.rows["train"]) < len(whole.rows["train"])
    assert all(np.array_equal(less.rows[name], whole.rows[name]) for name in ("valid", "natural", "balanced"))
    assert windows.with_fewer_trained(log.users, split, usable, 0, 0) is split
    with pytest.raises(UserError, match=r"windowing\.train_people: 1000"):
        windows.with_fewer_trained(log.users, split, usable, 1000, 0)
