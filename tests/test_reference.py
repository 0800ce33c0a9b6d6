import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import DIGITS, read_json, write_json
from stages.params import read_all
from stages.evaluate import evaluate
from stages.events.simulator.log import BEHAVIORS
from stages.metrics.adjust import adjusted
from stages.metrics.decisions import choose_tau
from stages.metrics.splits import read_splits
from stages.metrics.summary import measure
from stages.reference import STAGE, oracle_log_p, reference
from stages.metrics.registry import headline
from stages.windows import tested as chosen  # pytest would take the function itself for a test

PARAMS = Path(__file__).parents[1] / "params.yaml"
COUNTING = ["majority", "last", "frequent", "markov", "past"]
ORACLES = ["oracle", "oracle_adjusted"]


@pytest.fixture
def params():
    read = read_all(PARAMS)
    valid = {"valid_natural": 150, "valid_per_behavior": 3}
    return read.model_copy(update={
        "evaluate": read.evaluate.model_copy(update={"resamples": 20}),
        "predictions": read.predictions.model_copy(update=valid),
    })


@pytest.fixture
def data():
    """The four tables of 200 users whose behaviours are drawn, independently, from known distributions."""
    rng = np.random.default_rng(0)
    users, each, size = 200, 40, len(BEHAVIORS)
    count = users * each
    p = rng.dirichlet(np.linspace(1, 0.2, size), count)
    label = np.array([rng.choice(size, p=row) for row in p])
    behavior = pl.Series(np.array(BEHAVIORS)[label])
    split = np.repeat(np.array(["train"] * 100 + ["valid"] * 10 + ["natural"] * 30 + ["balanced"] * 60), each)
    shown = behavior.filter(pl.Series(split) == "train").value_counts(sort=True, name="n").rename({"": "behavior"})
    share = pl.col("n") / pl.col("n").sum()
    return {
        "events": pl.DataFrame({
            "user": np.repeat(np.arange(users, dtype=np.uint64), each),
            "time": [datetime(2024, 1, 1) + timedelta(minutes=7 * number) for number in range(count)],
            "place": pl.Series([None] * count, dtype=pl.String),
            "behavior": behavior,
            "offset": pl.repeat(None, count, dtype=pl.Int16, eager=True),
        }),
        "windows": pl.DataFrame({"row": np.arange(count), "split": split}).filter(pl.col("row") % each >= 5),
        "vocabulary": shown.select(
            "behavior", train_events=pl.col("n").cast(pl.Int64), share=share, is_anchor=share > 0.01,
            group=pl.when(share > 0.05).then(pl.lit("head")).when(share > 0.01).then(pl.lit("medium"))
            .otherwise(pl.lit("tail")),
        ),
        "oracle": pl.DataFrame({"row": np.arange(count), "p": pl.Series(values=p)}).cast(tables.SCHEMAS["oracle"]),
    }


def run(data, params, **changes):
    tables_ = data | changes
    predictions, headlines, values = reference(**tables_ | {"oracle": tables_["oracle"].lazy()}, params=params)
    assert headlines == {name: headline(each, adjusted=name in ("markov", "past")) for name, each in values.items()}
    return predictions, values


def test_nobody_beats_the_oracle(data, params):
    predictions, values = run(data, params)
    assert list(values) == list(predictions) == COUNTING + ORACLES
    loss = {name: metrics["natural"]["log_loss"] for name, metrics in values.items()}
    assert min(loss, key=loss.get) == "oracle"
    assert values["oracle"]["natural"]["ece"] < 0.1
    for split, metric, best in (("natural", "rec_w", "oracle"), ("balanced", "overall", "oracle_adjusted")):
        assert max(values, key=lambda name: values[name][split][metric]) == best


def test_the_oracles_ceiling_is_adjusted_with_one_and_not_again(data, params):
    predictions, values = run(data, params)
    share = data["vocabulary"]["share"].to_numpy()
    log_p = {name: np.stack(frame["log_p"].to_numpy()) for name, frame in predictions.items()}
    np.testing.assert_allclose(log_p["oracle_adjusted"], adjusted(log_p["oracle"], share, 1), atol=1e-6)
    ceiling = values["oracle_adjusted"]
    assert ceiling["adjusted"]["tau"] == 0 and ceiling["adjusted"]["balanced"] == ceiling["balanced"]
    for name in COUNTING + ["oracle"]:  # for every other baseline validation chooses, as for a model
        valid = read_splits(predictions[name], data["events"], data["vocabulary"])["valid_balanced"]
        assert values[name]["adjusted"]["tau"] == choose_tau(valid, share, params.evaluate)
    assert values["oracle"]["adjusted"]["tau"] > 0


def test_every_row_predicts_every_window_that_models_do(data, params):
    predictions, values = run(data, params)
    wanted = chosen.tested(data["events"], data["windows"], params.predictions, params.data_seed)
    assert wanted["split"].n_unique() == 4
    for name, frame in predictions.items():
        assert frame.select(wanted.columns).equals(wanted)
        np.testing.assert_allclose(np.exp(np.stack(frame["log_p"].to_numpy())).sum(axis=1), 1, atol=1e-4)
        if name != "oracle_adjusted":
            again = measure(frame, data["events"], data["vocabulary"], params.evaluate, params.data_seed)
            assert again == values[name]


def test_the_seed_of_training_changes_nothing(data, params):
    assert run(data, params.model_copy(update={"seed": 5}))[1] == run(data, params)[1]


def test_a_real_log_has_no_oracle(data, params):
    predictions, values = run(data, params, oracle=data["oracle"].clear())
    assert list(values) == list(predictions) == COUNTING


def test_a_real_logs_oracle_is_a_file_with_nothing_in_it(data, params, tmp_path):
    """DVC wants every out that its file lists."""
    write = STAGE.writes["metrics"].write
    write({name: {"acc": 0.5} for name in COUNTING}, tmp_path)
    assert [read_json(tmp_path / f"{name}.json") for name in COUNTING + ORACLES] == [{"acc": 0.5}] * 5 + [{}] * 2


def test_oracle_follows_the_vocabularys_order_and_renormalises():
    oracle = pl.DataFrame({"row": [3, 8], "p": [[0.5, 0.25, 0.25], [0.1, 0.9, 0.0]]}, schema=tables.SCHEMAS["oracle"])
    vocabulary = pl.DataFrame({"behavior": ["c", "a"]})
    p = np.exp(oracle_log_p(oracle, np.array([8, 3]), ("a", "b", "c"), vocabulary))
    np.testing.assert_allclose(p, [[0, 1], [1 / 3, 2 / 3]], atol=1e-6)


def test_oracle_refuses_unknown_rows_and_behaviours():
    oracle = pl.DataFrame({"row": [3], "p": [[0.5, 0.5]]}, schema=tables.SCHEMAS["oracle"])
    with pytest.raises(UserError, match="every test window"):
        oracle_log_p(oracle, np.array([3, 4]), ("a", "b"), pl.DataFrame({"behavior": ["a"]}))
    with pytest.raises(UserError, match="does not know"):
        oracle_log_p(oracle, np.array([3]), ("a", "b"), pl.DataFrame({"behavior": ["z"]}))


def keys(values):
    return {name: keys(value) for name, value in values.items()} if isinstance(values, dict) else None


def test_main_reads_the_tables_and_writes_the_metrics_and_the_predictions(data, params, tmp_path, monkeypatch):
    arguments = ["reference", "--params", str(PARAMS), "--metrics", str(tmp_path / "metrics"),
                 "--evaluation", str(tmp_path / "evaluation"), "--out", str(tmp_path / "predictions" / "reference")]
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "dpo.json").write_text("{}")
    for name, frame in data.items():
        tables.write(frame, name, tmp_path / f"{name}.parquet")
        arguments += [f"--{name}", str(tmp_path / f"{name}.parquet")]
    monkeypatch.setattr(sys, "argv", arguments)
    STAGE.main()
    assert (tmp_path / "metrics" / "dpo.json").exists(), "what other stages wrote there stays"
    values, figures = ({name: read_json(tmp_path / folder / f"{name}.json") for name in COUNTING + ORACLES}
                       for folder in ("evaluation", "metrics"))
    assert all(figures[name] == headline(values[name], adjusted=name in ("markov", "past")) for name in values)
    assert all(keys(metrics) == keys(values["markov"]) for metrics in values.values())
    written = {path.stem: tables.read("predictions", path) for path in (tmp_path / "predictions/reference").iterdir()}
    assert written.keys() == values.keys()

    # and a model's metrics have the keys of every baseline's, after what the model saw
    facts = {"layout": "stream", "context": "next", "events_dropped": 0, "windows": len(written["markov"])}
    _, model, _ = evaluate(data["events"], data["vocabulary"], written["markov"], facts, read_all(PARAMS))
    write_json(tmp_path / "model.json", {name: model[name] for name in values["markov"]}, DIGITS)
    assert read_json(tmp_path / "model.json") == values["markov"]
    assert model.keys() - values["markov"].keys() == facts.keys() - {"windows"}
