import json
import sys

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import write_json
from stages.evaluate import STAGE, evaluate
from stages.metrics.registry import headline
from tests.events.helpers import ROOT
from tests.small_log import all_behaviors, small_log, small_params

FACTS = {"layout": "stream", "context": "next", "events_dropped": 3}


@pytest.fixture(scope="module")
def data():
    """The three tables: a model that knows the labels a little, on every event of forty users."""
    rng = np.random.default_rng(0)
    events, vocabulary = small_log([20] * 40), all_behaviors()
    label = events["behavior"].replace_strict(vocabulary["behavior"], np.arange(6), return_dtype=pl.Int64).to_numpy()
    scores = rng.normal(size=(len(label), 6)) + np.log(vocabulary["share"].to_numpy())
    scores[np.arange(len(label)), label] += 1
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    predictions = pl.DataFrame({
        "row": range(len(label)), "split": np.array(["natural", "balanced", "valid_natural", "valid_balanced"])[
            np.arange(len(label)) % 4],
        "behavior": events["behavior"], "log_p": pl.Series(values=log_p),
    }).cast(tables.SCHEMAS["predictions"])
    return {"events": events, "vocabulary": vocabulary, "predictions": predictions}


def facts_of(data):
    return FACTS | {"windows": len(data["predictions"])}


@pytest.fixture
def arguments(data, tmp_path, monkeypatch):
    """Puts the command line in place, and returns its paths by option."""
    paths = {name: tmp_path / f"{name}.parquet" for name in data}
    for name, path in paths.items():
        tables.write(data[name], name, path)
    paths |= {"params": ROOT / "params.yaml", "facts": tmp_path / "facts.json",
              "metrics": tmp_path / "metrics" / "dpo.json", "evaluation": tmp_path / "evaluation" / "dpo.json",
              "plots": tmp_path / "plots" / "dpo"}
    write_json(paths["facts"], facts_of(data))
    monkeypatch.setattr(sys, "argv", ["evaluate", *(part for name, path in paths.items() for part in
                                                    (f"--{name}", str(path)))])
    return paths


def test_metrics_begin_with_the_facts(data):
    figures, metrics, plots = evaluate(**data, facts=facts_of(data), params=small_params(evaluate__resamples=20))
    assert figures == headline(metrics)
    assert list(metrics) == [
        "layout", "context", "events_dropped", "natural", "balanced", "opened", "adjusted", "calibrated", "valid"
    ]
    assert {key: metrics[key] for key in FACTS} == FACTS
    log_p = np.stack(data["predictions"].filter(split="natural")["log_p"].to_numpy())
    names = data["vocabulary"]["behavior"].gather(log_p.argmax(axis=1))
    right = (names == data["predictions"].filter(split="natural")["behavior"]).mean()
    assert metrics["natural"]["rec_w"] == pytest.approx(right)
    assert metrics["adjusted"]["tau"] > 0  # the tail is worth it
    assert list(plots) == ["confusion", "behaviors", "reliability", "coverage"]


def test_the_seed_of_training_does_not_change_which_users_are_drawn_and_that_of_the_data_does(data):
    def run(**seeds):
        return evaluate(**data, facts=facts_of(data), params=small_params(evaluate__resamples=20, **seeds))[1]

    assert run(seed=1) == run(seed=0)
    assert run(data_seed=1)["natural"]["interval"] != run(data_seed=0)["natural"]["interval"]


def test_main_writes_the_metrics_and_files_that_agree_with_them(arguments, data):
    STAGE.main()
    figures, metrics = (json.loads(arguments[name].read_text(encoding="utf-8")) for name in ("metrics", "evaluation"))
    assert figures == headline(metrics)
    files = {path.stem: pl.read_csv(path) for path in arguments["plots"].iterdir()}
    assert files.keys() == {"confusion", "behaviors", "reliability", "coverage"}
    rows = {row["behavior"]: row for row in files["behaviors"].iter_rows(named=True)}
    for name, values in metrics["balanced"]["by_behavior"].items():
        assert {key: rows[name][key] for key in values} == pytest.approx(values, abs=1e-6)
        own = files["confusion"].filter(actual=name)
        assert (own["predicted"] == name).mean() == pytest.approx(values["accuracy"], abs=1e-6)
    assert files["coverage"]["accuracy"][-1] == pytest.approx(metrics["natural"]["rec_w"], abs=1e-6)
    windows = files["reliability"].group_by("which").agg(pl.col("windows").sum())["windows"]
    assert windows.to_list() == [metrics["natural"]["windows"]] * 2


def test_floats_of_the_files_have_six_digits_and_no_user_is_in_them(arguments):
    STAGE.main()
    for path in arguments["plots"].iterdir():
        frame = pl.read_csv(path)
        assert "user" not in frame.columns and "row" not in frame.columns
        for name in frame.select(pl.selectors.float()).columns:
            assert (frame[name].drop_nulls().round(6) == frame[name].drop_nulls()).all()


def test_files_of_an_earlier_run_do_not_stay(arguments):
    arguments["plots"].mkdir(parents=True)
    (arguments["plots"] / "old.csv").touch()
    STAGE.main()
    assert not (arguments["plots"] / "old.csv").exists()


def test_refuses_predictions_of_another_log_vocabulary_or_run(data):
    def run(**changes):
        given = data | changes
        evaluate(**given, facts=facts_of(data), params=small_params())

    with pytest.raises(UserError, match="another log than the events"):
        run(events=data["events"].reverse())
    with pytest.raises(UserError, match="another vocabulary than this one of 5"):
        run(vocabulary=data["vocabulary"].head(5))
    with pytest.raises(UserError, match="facts are of 800 windows, the predictions of 7"):
        run(predictions=data["predictions"].head(7))


@pytest.mark.parametrize(("content", "message"), [
    (None, "not readable"), ("{", "not readable"), ('{"windows": 1}', "no layout, context, events_dropped"),
])
def test_refuses_facts_that_are_none_and_writes_nothing(arguments, content, message):
    arguments["facts"].unlink()
    if content:
        arguments["facts"].write_text(content)
    with pytest.raises(UserError, match=f"facts.json: {message}"):
        STAGE.main()
    assert not any(arguments[name].exists() for name in ("metrics", "evaluation", "plots"))
