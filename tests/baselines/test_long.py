"""The rows `…_long`: baselines that are told a long history, and what that changes of no other row."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch
from ruamel.yaml import YAML

from stages.baselines.fitting.sequences import NO_LABEL, Sequences
from stages.baselines.fitting.task import Task
from stages.baselines.language.names import NameVectors
from stages.baselines.sequential import stage
from stages.baselines.sequential.sasrec import SASRec, fit_sasrec
from stages.baselines.sequential.training import predict
from stages.baselines.systems import alphafuse, bert4rec, sasrec
from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import read_json
from tests.baselines.laws import check_nothing_depends_on_a_later_behavior, one_batch
from tests.small_log import small_params, vocabulary_of

USUAL, LONG, AGO, EVENTS, PEOPLE = 6, 56, 50, 54, 40
"""Events of history of both kinds; how long ago what tells a behaviour was; events of a person; people who train."""
SHARED = {"dropout": [0.0], "learning_rate": [0.005], "weight_decay": [0.0], "epochs": [6], "warmup": [0]}
SETTINGS = {
    "budget": {"trials": 1, "valid_windows": 100, "patience": 8, "windows_per_validation": 400},
    "long": {"history": LONG},
    "sasrec": SHARED | {"dimensions": [16], "blocks": [1], "heads": [2], "batch_size": [80]},
    "bert4rec": SHARED | {"dimensions": [16], "blocks": [1], "heads": [2], "batch_size": [80], "masked": [0.3],
                          "maskings": [1]},
    "alphafuse": SHARED | {"epochs": [3], "text_dimensions": [0], "id_dimensions": [16], "id_start": ["normal"],
                           "temperature": [0.07], "windows_per_epoch": 400, "batch_size": [8]},
}
FITS = {
    "sasrec": lambda task: fit_sasrec(task, "ce"),
    "bert4rec": bert4rec.fit_bert4rec,
    "alphafuse": lambda task: alphafuse.fit_alphafuse(task, None),
}


@pytest.fixture(scope="module")
def told_long_ago():
    """A log in which the last behaviour of each person, `yes` or `no`, was told by the first ones, `red` or `blue`."""
    splits = ["train"] * PEOPLE + ["valid"] * 20 + ["natural"] * 20
    rows = []
    for user in range(len(splits)):
        behaviors, kind = ["walk", "read", "eat"] * (EVENTS // 3), user % 2
        behaviors[:-AGO], behaviors[-1] = [("red", "blue")[kind]] * (EVENTS - AGO), ("yes", "no")[kind]
        rows += [(user, datetime(2024, 1, 1) + timedelta(hours=hour), None, each, None)
                 for hour, each in enumerate(behaviors)]
    events = pl.DataFrame(rows, schema=tables.SCHEMAS["events"], orient="row")
    ends = np.arange(1, len(splits) + 1) * EVENTS - 1
    windows = pl.DataFrame({"row": ends, "split": splits}, schema=tables.SCHEMAS["windows"])
    return events, windows, vocabulary_of(events.head(PEOPLE * EVENTS), 0.01)


@pytest.fixture
def task(tmp_path, monkeypatch):
    def make(log, long, settings=None):
        with (tmp_path / "settings.yaml").open("w") as file:
            YAML().dump(settings or SETTINGS, file)
        names = np.random.default_rng(0).normal(size=(log[2].height, 8)).astype(np.float32)
        monkeypatch.setattr(alphafuse, "load_names", lambda task, model: NameVectors(names, "drawn"))
        monkeypatch.setattr(bert4rec, "refuse_constant", lambda *given: None)  # who sees little answers all alike
        return Task(*log, small_params(windowing__history=USUAL), tmp_path / "settings.yaml", "next", long)

    return make


def accuracy(fitted, task, split="natural"):
    rows = task.windows.filter(pl.col("split") == split)["row"].to_numpy()
    rows, label = task.sequences.known(rows)
    return (predict(fitted.model, task.sequences, rows).argmax(axis=1) == label).mean()


@pytest.mark.parametrize("name", FITS)
def test_what_happened_fifty_events_ago_is_learned_by_the_long_row_alone(told_long_ago, task, name):
    right = {}
    for long in (False, True):
        asked = task(told_long_ago, long)
        right[long] = accuracy(FITS[name](asked), asked)
    assert right == {False: 0.5, True: 1.0}


@pytest.mark.parametrize("name", FITS)
def test_nothing_that_comes_later_is_seen(told_long_ago, task, name):
    events, windows, vocabulary = told_long_ago
    settings = SETTINGS | {name: SETTINGS[name] | {"epochs": [1]}}
    asked = task(told_long_ago, True, settings)
    model, row = FITS[name](asked).model, EVENTS * 3 + 40
    at = pl.int_range(pl.len())
    later, first = (events.with_columns(behavior=pl.when(changed).then(pl.lit("no")).otherwise("behavior"))
                    for changed in (at >= row, at == row - 40))
    found, unchanged, changed = (predict(model, Sequences(each, windows, vocabulary, LONG, USUAL), np.array([row]))
                                 for each in (events, later, first))
    assert np.array_equal(found, unchanged) and not np.array_equal(found, changed)


def test_no_state_of_a_long_sequence_depends_on_a_later_behaviour(log):
    sequences = Sequences(*log(users=20), 40, 8)
    model = SASRec(sequences, {"dimensions": 16, "blocks": 2, "heads": 2, "dropout": 0.0}, "next", "ce").eval()
    # products of longer rows differ by rounding with what stands behind them
    check_nothing_depends_on_a_later_behavior(model, one_batch(sequences), sequences.size, rounding=1e-6)


def test_people_of_fewer_events_are_padded_on_the_left(told_long_ago):
    sequences = Sequences(*told_long_ago, LONG, USUAL)
    batch = sequences.windows(np.array([EVENTS + 10, 2 * EVENTS - 1]))
    assert batch.behavior.shape == (2, LONG)
    assert (~batch.padding).sum(dim=1).tolist() == [10, EVENTS - 1]
    assert batch.padding[0, : LONG - 10].all() and (batch.behavior[batch.padding] == sequences.size + 1).all()
    torch.manual_seed(0)
    model = SASRec(sequences, {"dimensions": 16, "blocks": 1, "heads": 2, "dropout": 0.0}, "next", "ce").eval()
    other = replace(batch, behavior=torch.where(batch.padding, 0, batch.behavior))
    assert torch.equal(model.log_p(batch), model.log_p(other))


def test_a_step_has_the_events_of_as_many_usual_sequences(log):
    frames = log(users=40, each=61)
    usual, long = Sequences(*frames, 8), Sequences(*frames, 40, 8)
    batches = [list(each.epoch(32, np.random.default_rng(0))) for each in (usual, long)]
    assert [each[0].behavior.shape for each in batches] == [(32, 8), (6, 40)]
    learned = [sum(int((batch.label != NO_LABEL).sum()) for batch in each) for each in batches]
    assert learned[0] == learned[1] == len(usual.train_rows())
    assert Sequences(*frames, 40, 8).as_many_events(1) == 1, "a step is never empty"
    # whole windows teach one behaviour each: as many of them, however long
    assert len(next(iter(long.whole_windows(32, np.random.default_rng(0), 100))).behavior) == 32


@pytest.fixture
def files(log, tmp_path, monkeypatch):
    """What SASRec's command writes, with so long a history in its settings: predictions, weights and counts."""
    settings = {"budget": {"trials": 2, "valid_windows": 50, "patience": 1, "windows_per_validation": 1},
                "sasrec": SETTINGS["sasrec"] | {"epochs": [1], "learning_rate": [0.01, 0.001]}}
    events, windows, vocabulary = log(users=20)
    for name, frame in (("events", events), ("windows", windows), ("vocabulary", vocabulary)):
        tables.write(frame.cast(tables.SCHEMAS[name]), name, tmp_path / f"{name}.parquet")
    (tmp_path / "params.json").write_text(small_params(windowing__history=USUAL).model_dump_json(by_alias=True))
    monkeypatch.setattr("stages.baselines.sequential.stage.latency_ms", lambda *given: 1.0)
    monkeypatch.setattr("stages.baselines.fitting.stage.time.monotonic", lambda: 0.0)

    def go(history, *options):
        with (tmp_path / "settings.yaml").open("w") as file:
            YAML().dump(settings | ({"long": {"history": history}} if history else {}), file)
        argv = ["sasrec", "--context", "next", "--objective", "ce", *options, "--out", tmp_path / "out.parquet",
                "--params", tmp_path / "params.json", "--settings", tmp_path / "settings.yaml",
                "--counts", tmp_path / "counts.json", "--weights", tmp_path / "weights"]
        for name in ("events", "windows", "vocabulary"):
            argv += [f"--{name}", tmp_path / f"{name}.parquet"]
        monkeypatch.setattr("sys.argv", [*map(str, argv)])
        sasrec.STAGE.main()
        weights = (tmp_path / "weights" / "model.safetensors").read_bytes()
        return (tmp_path / "out.parquet").read_bytes(), weights, read_json(tmp_path / "counts.json")

    return go


def test_no_other_row_changes_with_the_long_history(files, monkeypatch):
    alone = files(None)
    assert alone == files(10) == files(40)
    assert "history" not in alone[2]
    fit = stage.fit

    def as_before(title, make, sequences, *rest):
        assert sequences.length == USUAL and sequences.as_many_events(80) == 80
        return fit(title, make, sequences, *rest)

    monkeypatch.setattr(stage, "fit", as_before)
    assert files(40) == alone
    monkeypatch.setattr(stage, "fit", fit)
    long, longer = files(10, "--long"), files(40, "--long")
    assert len({alone[0], long[0], longer[0]}) == 3
    assert [each[2]["history"] for each in (long, longer)] == [10, 40]


def test_a_long_history_that_is_shorter_than_the_usual_one_is_refused(told_long_ago, task):
    asked = task(told_long_ago, True, SETTINGS | {"long": {"history": USUAL - 1}})
    with pytest.raises(UserError, match=r"settings.yaml: long.history: 5: expected at least windowing.history .*, 6"):
        _ = asked.sequences
