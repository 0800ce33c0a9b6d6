"""Stage `habits`: a table for every window that models answer, the model's folder, and what it took."""

import sys

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.evaluate import evaluate
from stages.habits import STAGE, habits
from stages.params import Params
from stages.past import saved
from stages.windows import tested as chosen  # pytest would take the function itself for a test
from stages.windows.past import Past
from tests.events.helpers import params_with, write_params
from tests.past.people import two_kinds_of_people

EVENTS, WINDOWS, VOCABULARY = two_kinds_of_people()


def params(**changes) -> Params:
    small = {"train_windows": 400, "hidden": 4, "steps": 30, "validations": 2, "batch_size": 16, "learning_rate": 0.01}
    valid = {"predictions__valid_natural": 60, "predictions__valid_per_behavior": 4, "evaluate__resamples": 20}
    return params_with(**valid | {f"habits__{key}": value for key, value in small.items()} | changes)


def made(settings=None, events=EVENTS, windows=WINDOWS):
    return habits(events.lazy(), windows, VOCABULARY, settings or params())


@pytest.fixture(scope="module")
def found():
    return made()


def test_every_window_that_models_answer_has_a_value_for_each_candidate(found):
    frame, _, (model, names) = found
    settings = params()
    wanted = chosen.tested(EVENTS, WINDOWS, settings.predictions, settings.data_seed)
    assert frame.drop("log_p").equals(wanted) and wanted["split"].n_unique() == 3
    own = Past.from_tables(EVENTS, VOCABULARY).own[frame["row"].to_numpy()]
    assert frame["log_p"].list.len().to_list() == (len(VOCABULARY) + own).tolist() and own.max() == 2
    total = frame["log_p"].list.eval(pl.element().cast(pl.Float64).exp().sum()).explode()
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert names == VOCABULARY["behavior"].to_list() and model.log_p(
        Past.from_tables(EVENTS, VOCABULARY), frame["row"][:1].to_numpy())[0].tolist() == frame["log_p"][0].to_list()


def test_counts_are_what_evaluate_and_studies_read(found):
    frame, counts, _ = found
    assert {key: counts[key] for key in ("layout", "context", "events_dropped", "windows")} == {
        "layout": "past", "context": "next", "events_dropped": 0, "windows": len(frame)}
    assert counts["trained_targets"] == 400 and counts["trained_parameters"] > 0
    assert 0 < counts["steps"] <= 30 and 0 < counts["valid_log_loss"] < np.log(len(VOCABULARY))
    headline, metrics, _ = evaluate(EVENTS, VOCABULARY, frame, counts, params())
    assert metrics["layout"] == "past" and headline["loss"] < np.log(len(VOCABULARY) + 2)


def test_a_seed_repeats_itself_and_another_does_not(found):
    assert made()[0].equals(found[0]) and made()[1] == found[1]
    other = made(params(seed=1))[0]
    assert other.drop("log_p").equals(found[0].drop("log_p")) and not other.equals(found[0])


def test_without_windows_of_a_kind_there_is_nothing_to_do():
    with pytest.raises(UserError, match="none of split natural or balanced"):
        made(windows=WINDOWS.filter(pl.col("split") != "natural"))
    with pytest.raises(UserError, match="none of split valid"):
        made(windows=WINDOWS.filter(pl.col("split") != "valid"))


def test_main_writes_the_table_the_counts_and_a_model_that_answers_the_same(found, tmp_path, monkeypatch, capsys):
    given = {"events": EVENTS, "windows": WINDOWS, "vocabulary": VOCABULARY}
    for name, frame in given.items():
        tables.write(frame, name, tmp_path / f"{name}.parquet")
    paths = {name: tmp_path / f"{name}.parquet" for name in given} | {
        "params": write_params(tmp_path / "params.yaml", params()), "out": tmp_path / "predictions/habits.parquet",
        "counts": tmp_path / "counts/habits.json", "weights": tmp_path / "models/habits"}
    monkeypatch.setattr(sys, "argv", ["habits", *(part for name, path in paths.items()
                                                  for part in (f"--{name}", str(path)))])
    STAGE.main()
    frame, counts, _ = found
    assert tables.read("predictions", paths["out"]).equals(frame)
    assert read_json(paths["counts"]).keys() == counts.keys()
    model, names = saved.read(paths["weights"])
    row = frame["row"].to_numpy()[-1:]
    again = model.log_p(Past.from_tables(EVENTS, VOCABULARY), row)[0].tolist()
    assert again == frame["log_p"][-1].to_list() and names == VOCABULARY["behavior"].to_list()
    assert sum(path.stat().st_size for path in paths["weights"].iterdir()) < 100_000
    assert "400 training windows" in " ".join(capsys.readouterr().err.split())
