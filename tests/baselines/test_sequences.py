from collections import Counter

import numpy as np
import polars as pl
import pytest
import torch

from stages.baselines.fitting.sequences import NO_LABEL, Sequences
from stages.common.errors import UserError

LENGTH = 8


@pytest.fixture
def sequences(log):
    return Sequences(*log(), LENGTH)


def numbers(events, vocabulary):
    names = vocabulary["behavior"].to_list()
    return np.array([names.index(each) if each in names else len(names) for each in events["behavior"]])


def test_an_epoch_has_every_training_target_once_behind_what_came_before_it(log):
    events, windows, vocabulary = log(users=20, each=31)
    sequences, behavior = Sequences(events, windows, vocabulary, LENGTH), numbers(events, vocabulary)
    hour = events["time"].dt.hour().to_numpy()
    for seed in range(5):
        seen = []
        for batch in sequences.epoch(7, np.random.default_rng(seed)):
            for each in range(len(batch.label)):
                known = np.flatnonzero((batch.label[each] != NO_LABEL).numpy())
                assert not batch.padding[each, known].any() and (np.diff(known) == 1).all()
                seen.append((*batch.behavior[each].tolist(), *batch.label[each].tolist(), *batch.hour[each].tolist()))
        wanted = windows.filter(pl.col("split") == "train")["row"].to_numpy()
        assert sum(label != NO_LABEL for each in seen for label in each[LENGTH : 2 * LENGTH]) == len(wanted)
        # each target by its history, its label and its history's hours, which nearly always tell it from the others
        found, expected = [], []
        for each in seen:
            for end in range(LENGTH):
                if each[LENGTH + end] != NO_LABEL:
                    past = [number for number in each[: end + 1] if number != sequences.size + 1][-3:]
                    found.append((*past, *each[2 * LENGTH : 2 * LENGTH + end + 1][-3:], each[LENGTH + end]))
        for row in wanted:
            expected.append((*behavior[row - 3 : row], *hour[row - 3 : row], behavior[row]))
        short = [each for each in found if len(each) < 7]
        assert len(short) < len(found) / 2
        assert Counter(each for each in found if len(each) == 7) <= Counter(expected)


def test_sequences_of_an_epoch_are_cut_elsewhere_each_time(sequences):
    rng = np.random.default_rng(0)
    first, second = (next(iter(sequences.epoch(10_000, rng))) for _ in range(2))
    assert first.behavior.shape != second.behavior.shape or not torch.equal(first.behavior, second.behavior)


def test_a_window_is_the_last_events_of_the_same_user_and_its_own_context(log):
    events, windows, vocabulary = log(users=20, each=31)
    sequences, behavior = Sequences(events, windows, vocabulary, LENGTH), numbers(events, vocabulary)
    rows = np.array([5, 30, 31 + 6, 31 + 20])
    batch = sequences.windows(rows)
    for each, row in enumerate(rows):
        past = range(max(row // 31 * 31, row - LENGTH), row)
        there = LENGTH - len(past)
        assert batch.padding[each].tolist() == [True] * there + [False] * len(past)
        assert batch.behavior[each, there:].tolist() == behavior[list(past)].tolist()
        assert batch.next_hour[each, -1] == events["time"].dt.hour()[int(row)]
        assert (batch.label[each, :-1] == NO_LABEL).all() and batch.label[each, -1] == behavior[row]


def test_a_behaviour_outside_the_vocabulary_is_history_but_no_label(log):
    events, windows, vocabulary = log()
    row = events.height - 1
    assert events["behavior"][row] == "new"
    batch = Sequences(events, windows, vocabulary, LENGTH).windows(np.array([row]))
    assert batch.label[0, -1] == NO_LABEL


def test_a_place_that_no_training_user_visits_has_one_number(log):
    events, windows, vocabulary = log()
    last = events.height - 1
    events = events.with_columns(
        place=pl.when(pl.int_range(pl.len()) == last).then(pl.lit("moon")).otherwise("place")
    )
    sequences = Sequences(events, windows, vocabulary, LENGTH)
    assert sequences.places == 2 and sequences.windows(np.array([last])).next_place[0, -1] == 2


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_log_without_training_or_validation_windows_is_refused(log, split):
    events, windows, vocabulary = log()
    with pytest.raises(UserError, match=f"none of split {split}"):
        Sequences(events, windows.filter(pl.col("split") != split), vocabulary, LENGTH)
