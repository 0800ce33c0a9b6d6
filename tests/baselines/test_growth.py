from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from ruamel.yaml import YAML

from stages.baselines.fitting.stage import predictions_of
from stages.baselines.research import growth
from stages.baselines.research.command import READ
from stages.baselines.research.growth import (
    NAMES,
    Answering,
    MarkovAlone,
    OneSetting,
    counted,
    grow,
    learned,
    oracle_of,
    summaries,
)
from stages.baselines.sequential.sasrec import Settings
from stages.baselines.systems import bert4rec
from stages.baselines.systems.bert4rec import Collapsed
from stages.common import tables
from stages.common.errors import UserError
from stages.events.simulator.log import BEHAVIORS as SIMULATED
from stages.metrics.adjust import adjusted
from stages.metrics.decisions import choose_tau
from stages.metrics.splits import read_splits
from stages.past.counting import Markov
from stages.windows.past import Past
from stages.reference import oracle_log_p
from tests.baselines.laws import rows_of
from tests.contract.imports import ROOT
from tests.events.helpers import simulated_log, write_params
from tests.small_log import small_params, small_windows, vocabulary_of

QUICK = {"epochs": [1], "dimensions": [8], "blocks": [1], "batch_size": [64]}
FEW = {"llmesr": {"windows_per_validation": 1, "pool": 50, "similar": 2},
       "alphafuse": {"id_dimensions": [8], "text_dimensions": [2], "windows_per_epoch": 200}}


@pytest.fixture(scope="module")
def task(log, tmp_path_factory):
    """The chain's log with a balanced test set of its own, and settings of which one is quick."""
    events, windows, vocabulary = log(users=60)
    test = windows.filter(split="natural").with_columns(
        split=pl.when(pl.col("row") % 2 == 0).then(pl.lit("balanced")).otherwise("split"))
    windows = pl.concat([windows.filter(pl.col("split") != "natural"), test])
    path = tmp_path_factory.mktemp("growth") / "settings.yaml"
    settings = YAML(typ="safe", pure=True).load((ROOT / "stages/baselines/params.yaml").read_text("utf-8"))
    settings["budget"] |= {"windows_per_validation": 1, "valid_windows": 50}
    for name in ("sasrec", "bert4rec", "alphafuse", "llmesr"):
        settings[name] |= {key: value for key, value in QUICK.items() if key in settings[name]} | FEW.get(name, {})
    with path.open("w") as file:
        YAML().dump(settings, file)
    return OneSetting(events, windows, vocabulary, small_params(windowing__history=8), path, "next")


def test_every_baseline_is_fitted_with_one_setting_and_answers_what_is_asked(task, tiny_base, monkeypatch):
    monkeypatch.setattr(bert4rec, "refuse_constant", lambda *given: None)  # after one epoch it is one
    rows = rows_of(task.windows, "natural")[:7]
    found = list(learned(task, NAMES, tiny_base))
    assert [row.name for row in found] == list(NAMES)
    for row in found:
        log_p = row.answers(rows)
        assert log_p.shape == (7, task.vocabulary.height) and np.isfinite(log_p).all(), row.name
        assert row.facts["trained_targets"] == task.windows.filter(split="train").height
    assert task.settings("sasrec", Settings)[0].trials == 1


def test_a_baseline_that_collapses_is_said_and_left_out(task, monkeypatch, capsys):
    def fit(task, model):
        raise Collapsed("collapsed")

    monkeypatch.setitem(growth.FITS, "bert4rec", fit)
    assert [row.name for row in learned(task, ["bert4rec", "sasrec_ce"], None)] == ["sasrec_ce"]
    assert "bert4rec is left out: collapsed" in capsys.readouterr().err
    with pytest.raises(UserError, match="base.json"):
        list(learned(task, ["alphafuse"], task.settings_file.parent))


def test_markov_that_sees_behaviours_alone_answers_alike_whenever_and_wherever(task):
    rows = rows_of(task.windows, "natural")
    other = task.events.with_columns(pl.col("time").dt.offset_by("7h"), place=pl.lit("gym"))
    past = Past.from_tables(task.events, task.vocabulary)
    alone, whole = (kind().fit(past, task.windows, task.vocabulary) for kind in (MarkovAlone, Markov))
    other = Past.from_tables(other, task.vocabulary)
    np.testing.assert_array_equal(alone.log_p(past, rows), alone.log_p(other, rows))
    assert not np.allclose(whole.log_p(past, rows), whole.log_p(other, rows))


def test_tables_of_more_people_are_of_more_windows_and_the_same_test(task, monkeypatch, tiny_base):
    seen = []

    def kept(task, baselines, *rest):
        seen.append((task, summaries(task, baselines, resamples=20)))
        return seen[-1][1]

    monkeypatch.setattr(growth, "summaries", kept)
    found = list(grow(task, [2, 20], ["sasrec_ce"], tiny_base, lambda rows: np.full((len(rows), 5), -np.log(5))))
    assert [text.splitlines()[0] for text in found] == [
        f"# {people} people, {people * 55:,} training windows, decisions {how}"
        for people in (2, 20) for how in ("as they are", "with adjusted logits")
    ]
    (few, small), (many, large) = seen
    trained = [set(some.windows.filter(split="train")["row"]) for some in (few, many)]
    assert trained[0] < trained[1] and len(trained[1]) == 20 * 55
    for summary in (*small, *large):
        assert [row.name for row in summary.rows] == ["markov", "markov_id", "sasrec_ce", "oracle"]
        assert summary.reference == "markov" and summary.windows == small[0].windows
    accuracy = [summary[0].rows[0].metrics["natural.rec_w"].mean.value for summary in (small, large)]
    assert accuracy[0] < accuracy[1], "Markov learns"
    with pytest.raises(UserError, match="--people 1000: the log has 42 training users"):
        next(grow(task, [5, 1000], [], tiny_base, None))


def test_the_second_table_is_of_adjusted_logits(task):
    share = task.vocabulary["share"].to_numpy()
    fixed = replace(task, params=small_params(windowing__history=8, evaluate__tau=0.5))
    plain, moved = summaries(fixed, list(counted(task)), resamples=0)
    assert [row.label for row in plain.rows] == ["markov", "markov_id"]
    assert [row.label for row in moved.rows] == ["markov, τ = 0.5", "markov_id, τ = 0.5"]
    by_hand = [replace(row, answers=lambda rows, row=row: adjusted(row.answers(rows), share, 0.5))
               for row in counted(task)]
    again = summaries(fixed, by_hand, resamples=0)[0]
    assert [row.metrics for row in moved.rows] == [row.metrics for row in again.rows]
    assert [row.metrics for row in moved.rows] != [row.metrics for row in plain.rows]


def test_validation_chooses_how_far_logits_are_adjusted(task):
    def answers(rows):
        log_p = np.full((len(rows), 5), np.log(0.1))
        log_p[:, 0] = np.log(0.6)
        return log_p

    (row,) = summaries(task, [Answering("markov", answers, {})], resamples=0)[1].rows
    wanted, share = task.tested(), task.vocabulary["share"].to_numpy()
    split = read_splits(predictions_of(wanted, answers(wanted["row"])), task.events, task.vocabulary)["valid_balanced"]
    assert float(row.label.split()[-1]) == choose_tau(split, share, task.params.evaluate)


def test_the_oracle_is_read_for_what_is_tested_and_refused_before_any_fit(tmp_path):
    events, oracle = simulated_log(0, 12, 6, 12)
    events = events.with_columns(user=(pl.col("user").rank("dense") - 1).cast(tables.SCHEMAS["events"]["user"]))
    windows = small_windows(events, ["train"] * 6 + ["valid"] * 3 + ["natural"] * 3, min_history=5)
    train = events.filter(pl.int_range(pl.len()).is_in(windows.filter(split="train")["row"].implode()))
    task = OneSetting(events, windows, vocabulary_of(train, 0.1), small_params(), tmp_path, "next")
    path = tmp_path / "oracle.parquet"
    assert oracle_of(path, task) is None
    tables.write(oracle, "oracle", path)
    rows = task.tested()["row"].to_numpy()
    log_p = oracle_of(path, task)(rows)
    np.testing.assert_array_equal(log_p, oracle_log_p(oracle, rows, SIMULATED, task.vocabulary))
    tables.write(oracle.clear(), "oracle", path)
    assert oracle_of(path, task) is None
    tables.write(oracle.filter(pl.col("row") != rows[0]), "oracle", path)
    with pytest.raises(UserError, match="the oracle has no distribution"):
        oracle_of(path, task)


def test_the_command_reads_the_tables_and_prints_the_baselines(task, tmp_path, monkeypatch, capsys):
    words = ["--settings", str(task.settings_file), "--params", str(write_params(tmp_path / "p.yaml", task.params))]
    for name in READ:
        tables.write(getattr(task, name), name, tmp_path / f"{name}.parquet")
        words += [f"--{name}", str(tmp_path / f"{name}.parquet")]
    monkeypatch.setattr("sys.argv", ["growth", *words, "--people", "5", "--baselines", "sasrec_ce_id", "--oracle",
                                     str(tmp_path / "none.parquet")])
    growth.main()
    said = capsys.readouterr().out
    assert said.count("\n| markov") == 4 and said.count("\n| sasrec_ce_id") == 2 and "oracle" not in said
