from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from stages.common.checksums import seal_folder
from stages.common.errors import UserError
from stages.common.files import read_json, write_json
from stages.past import saved
from stages.past.counting import Markov
from stages.past.fitting import fit
from stages.past.settings import Habits
from stages.past.whole import WholePast
from stages.windows.past import NONE, Past
from tests.baselines.laws import rows_of
from tests.past.people import two_kinds_of_people

SETTINGS = Habits(train_windows=2000, hidden=8, learning_rate=0.01, moment_learning_rate=0.01, weight_decay=0.01,
                  moment_weight_decay=0.1, batch_size=32, steps=124, validations=4, patience=2, left_out=0.1)


@pytest.fixture(scope="module")
def data():
    return two_kinds_of_people()


@pytest.fixture(scope="module")
def fitted(data):
    events, windows, vocabulary = data
    return fit(Past.from_tables(events, vocabulary), windows, vocabulary, SETTINGS, 0)


def loss_of(log_p, past, rows):
    """Mean log-loss of the windows whose behaviour is a candidate."""
    found = [each[past.behavior[row]] for each, row in zip(log_p, rows, strict=True) if past.behavior[row] < len(each)]
    return -np.mean(found)


def test_the_person_is_recognised(data, fitted):
    events, windows, vocabulary = data
    past, rows = Past.from_tables(events, vocabulary), rows_of(windows, "natural")
    known = rows[(past.own[rows] == 0) & (past.behavior[rows] < past.size)]
    mine = loss_of(fitted[0].log_p(past, known), past, known)
    whole = loss_of(WholePast().fit(past, windows, vocabulary).log_p(past, known), past, known)
    chain = loss_of(list(Markov().fit(past, windows, vocabulary).log_p(past, known)), past, known)
    assert mine < chain - 0.03 and whole < chain - 0.02


def test_what_nobody_in_training_does_is_expected_of_who_does_it(data, fitted):
    events, windows, vocabulary = data
    past = Past.from_tables(events, vocabulary)
    rows = np.flatnonzero(past.own == 2)
    rows = rows[np.isin(events["behavior"].gather(rows), ["z", "y"])]
    assert len(rows) > 20
    for model in (fitted[0], WholePast().fit(past, windows, vocabulary)):
        log_p = model.log_p(past, rows)
        assert all(len(each) == past.size + 2 for each in log_p)
        assert loss_of(log_p, past, rows) < np.log(past.size + 2) - 0.3


def test_distributions_and_their_order(data, fitted):
    events, _, vocabulary = data
    past = Past.from_tables(events, vocabulary)
    rows = np.random.default_rng(0).permutation(events.height)
    for model in (fitted[0], fitted[0].whole):
        log_p = model.log_p(past, rows)
        assert [len(each) for each in log_p] == (past.size + past.own[rows]).tolist()
        np.testing.assert_allclose([np.exp(each.astype(float)).sum() for each in log_p], 1, rtol=1e-5)
        for place in (0, 17, 200):
            np.testing.assert_allclose(model.log_p(past, rows[place : place + 1])[0], log_p[place], atol=1e-5)


def test_the_numbers_of_places_and_labels_do_not_matter(data, tmp_path):
    """Several threads of Polars number them as they come: with one order a run, each run wrote another model."""
    events, windows, vocabulary = data
    number = pl.int_range(pl.len()) % 7 % 3
    past = Past.from_tables(events.with_columns(place=pl.lit(pl.Series(["home", "work", "gym"])).gather(number)),
                            vocabulary)
    turned = len(past.places) - 1 - past.place
    turned[past.place == NONE] = NONE
    other = replace(past, place=turned, places=past.places.reverse(), outside=len(past.labels) - 1 - past.outside,
                    labels=past.labels.reverse())
    for name, each in (("one", past), ("other", other)):
        saved.write(fit(each, windows, vocabulary, SETTINGS, 0)[0], vocabulary["behavior"].to_list(), tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes(), file.name


def test_nothing_from_the_window_on_changes_the_answer(data, fitted):
    events, _, vocabulary = data
    past = Past.from_tables(events, vocabulary)
    row = events.height - 4
    later = pl.int_range(pl.len()) >= row
    other = Past.from_tables(events.with_columns(behavior=pl.when(later).then(pl.lit("e")).otherwise("behavior")),
                             vocabulary)
    for model in (fitted[0], fitted[0].whole):
        first, second = (model.log_p(each, np.array([row]))[0] for each in (past, other))
        np.testing.assert_array_equal(first, second)


def test_fitting_repeats_itself_and_reads_no_test_window(data, fitted):
    events, windows, vocabulary = data
    past = Past.from_tables(events, vocabulary)
    test = pl.int_range(pl.len()) >= int(rows_of(windows, "natural")[0]) - 5
    changed = events.with_columns(behavior=pl.when(test).then(pl.lit("a")).otherwise("behavior"))
    again, facts = fit(Past.from_tables(changed, vocabulary), windows, vocabulary, SETTINGS, 0)
    rows = rows_of(windows, "natural")[:20]
    for first, second in zip(fitted[0].log_p(past, rows), again.log_p(past, rows), strict=True):
        np.testing.assert_array_equal(first, second)
    assert facts == fitted[1]


def test_a_model_that_was_written_answers_the_same(data, fitted, tmp_path):
    events, _, vocabulary = data
    saved.write(fitted[0], vocabulary["behavior"].to_list(), tmp_path / "habits")
    model, names = saved.read(tmp_path / "habits")
    assert names == vocabulary["behavior"].to_list()
    past, rows = Past.from_tables(events, vocabulary), np.arange(events.height)
    for one, other in ((fitted[0], model), (fitted[0].whole, model.whole)):
        for first, second in zip(one.log_p(past, rows), other.log_p(past, rows), strict=True):
            np.testing.assert_array_equal(first, second)
    files = list((tmp_path / "habits").iterdir())
    assert sum(file.stat().st_size for file in files) < 200_000
    assert len({file.stat().st_mode for file in files}) == 1


def test_a_model_of_another_version_is_named(data, fitted, tmp_path):
    saved.write(fitted[0], data[2]["behavior"].to_list(), tmp_path / "habits")
    facts = read_json(tmp_path / "habits" / "habits.json")
    write_json(tmp_path / "habits" / "habits.json", {key: value for key, value in facts.items() if key != "format"})
    seal_folder(tmp_path / "habits")
    with pytest.raises(UserError, match="habits: made by another version of the model of habits"):
        saved.read(tmp_path / "habits")


def test_a_damaged_model_is_no_model(data, fitted, tmp_path):
    saved.write(fitted[0], data[2]["behavior"].to_list(), tmp_path / "habits")
    file = tmp_path / "habits" / "habits.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"habits\.safetensors"):
        saved.read(tmp_path / "habits")
    with pytest.raises(UserError, match="no model of habits"):
        saved.read(tmp_path)


def test_ten_windows_are_enough_to_fit(data):
    events, windows, vocabulary = data
    few = pl.concat([windows.filter(split="train").head(10), windows.filter(pl.col("split") != "train")])
    past = Past.from_tables(events, vocabulary)
    settings = SETTINGS.model_copy(update={"moment_learning_rate": 0.1, "moment_weight_decay": 10})
    model, facts = fit(past, few, vocabulary, settings, 0)
    assert facts["trained_targets"] == 10 and np.isfinite(facts["valid_log_loss"])
    assert np.isfinite(np.concatenate(model.log_p(past, np.arange(events.height)))).all()


def test_smoothing_suits_windows_too_that_only_a_persons_own_candidates_name(data):
    events, windows, vocabulary = data
    new = pl.col("user").is_in([45, 46, 47, 48, 49]) & (pl.col("behavior") != "e")
    events = events.with_columns(behavior=pl.when(new).then(pl.lit("own ") + pl.col("behavior")).otherwise("behavior"))
    strange = events["behavior"].gather(windows["row"]).str.starts_with("own")
    split = pl.when((pl.col("split") == "valid") & strange).then(pl.lit("valid_outside")).otherwise("split")
    past, marked = Past.from_tables(events, vocabulary), windows.with_columns(split=split)
    alone = WholePast().fit(past, marked.filter(pl.col("split") != "valid_outside"), vocabulary)
    with_them = WholePast().fit(past, marked, vocabulary)
    rows = rows_of(marked, "valid_outside")
    rows = rows[past.behavior[rows] < past.size + past.own[rows]]
    assert loss_of(with_them.log_p(past, rows), past, rows) < loss_of(alone.log_p(past, rows), past, rows)
