"""From finished experiments to rows: decisions, groups of the tail, what may be shown; and the shuffled control."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.metrics.adjust import adjusted
from stages.metrics.decisions import decided
from stages.studies import view
from stages.studies.definitions import Setting, Study, StudyRow
from stages.studies.plan import Plan
from stages.studies.repository import Commit, Finished
from stages.studies.results import BASELINE_COUNTS, COSTS, COUNTS, compare, costs, tail_groups
from stages.studies.shuffled import shuffled
from tests.events.helpers import params_with

SHARE = np.array([0.9, 0.08, 0.02])


@pytest.fixture
def predictions():
    log_p = np.log(np.random.default_rng(0).dirichlet(np.ones(3), size=4)).astype(np.float32)
    return pl.DataFrame(
        {"row": [1, 2, 3, 4], "split": ["natural"] * 4, "behavior": ["a", "b", "c", "a"], "log_p": log_p.tolist()},
        schema=tables.SCHEMAS["predictions"])


def test_no_adjustment_leaves_the_predictions_as_they_are(predictions):
    assert decided(predictions, SHARE, 0.0) is predictions


def test_the_textbook_decision_is_logit_adjustment(predictions):
    found = decided(predictions, SHARE, 1.0)
    log_p = np.stack(predictions["log_p"].to_numpy())
    assert np.array_equal(np.stack(found["log_p"].to_numpy()), adjusted(log_p, SHARE, 1.0))
    assert found.drop("log_p").equals(predictions.drop("log_p")) and found.schema == predictions.schema


def test_the_tail_is_split_at_the_median_of_its_likeness():
    likeness = [1.0, 1.0, 0.9, 0.2, 0.6, 0.4]
    names = list("abcdef")
    embeddings = pl.DataFrame({"behavior": names, "likeness": likeness})
    vocabulary = pl.DataFrame({"behavior": names, "is_anchor": [True, True, False, False, False, False]})
    results = SimpleNamespace(table=lambda *_: embeddings)
    found = tail_groups(results, "commit", vocabulary)
    assert [names[place] for place in np.flatnonzero(found["near_tail"])] == ["c", "e"]
    assert [names[place] for place in np.flatnonzero(found["far_tail"])] == ["d", "f"]


@pytest.mark.parametrize("done", [{}, {"second": Finished("ours-second-0-second", "c")}])
def test_without_the_reference_there_is_nothing_to_compare_with(done):
    rows = {"first": StudyRow(), "second": StudyRow()}
    study = Study(title="Ours", reference="first", groups=["near_tail"], rows=rows)
    experiments = {row: {0: (SimpleNamespace(mark=row, name=f"ours-{row}-0-{row}"),)} for row in study.rows}
    made = Plan(study, study.rows, [], experiments)
    with pytest.raises(UserError, match="no experiment of its row first is finished"):
        compare(made, done, SimpleNamespace(), 10, 0)


@pytest.fixture
def trying():
    """A study whose second row tries two settings more: its plan, its experiments' results, what rows are made from."""
    study = Study(title="Ours", reference="first", rows={
        "first": StudyRow(model="base"),
        "second": StudyRow(model="sft", alternatives=[{"sft.epochs": 2}, {"sft.epochs": 3}]),
        "baseline": StudyRow(model="sasrec_ce_next")}, metrics=["natural.rec_w"], costs=True)
    def experiment(mark, targets=()):
        return SimpleNamespace(mark=mark, name=mark, targets=targets, keys={"sft": f"sft of {mark}", "dpo": "unread"})
    timed = ("evaluate@sft", "stages/baselines/dvc.yaml:timing@sft")
    experiments = {"first": {0: (experiment("base"),)}, "baseline": {0: (experiment("baseline"),)},
                   "second": {0: tuple(experiment(mark, timed) for mark in ("one", "two", "three"))}}
    made = Plan(study, study.rows, [], experiments)
    done = {each.mark: Finished(each.name, f"commit of {each.mark}") for by in experiments.values() for each in by[0]}
    score = {"one": 0.2, "two": 0.4, "three": 0.4, "base": 0.1, "baseline": 0.3}
    right = {"one": "a", "two": "b", "three": "c", "base": "c", "baseline": "c"}
    def table(name, commit, path):
        if name == "vocabulary":
            return pl.DataFrame({"behavior": list("abc"), "share": SHARE, "is_anchor": [True, False, False],
                                 "group": ["head", "head", "tail"]})
        if name == "events":
            return pl.DataFrame({"user": [0, 1, 2, 3, 4], "behavior": list("aabba")})
        best = "abc".index(right[commit.rpartition(" ")[2]])
        log_p = np.log(np.where(np.arange(3) == best, 0.8, 0.1)).astype(np.float32)
        return pl.DataFrame({"row": [1, 2, 3, 4], "split": ["natural"] * 4, "behavior": list("abba"),
                             "log_p": [log_p.tolist()] * 4}, schema=tables.SCHEMAS["predictions"])
    def metrics(commit, path):
        fitted = {"trained_parameters": 9, "fit_seconds": 2.0, "latency_ms": 1.0, "trained_targets": 600}
        facts = {COUNTS.format("instructions"): {"train": {"targets": 500}},
                 COUNTS.format("sft"): {"trained_parameters": 70}, BASELINE_COUNTS.format("sft"): {"latency_ms": 5.0},
                 BASELINE_COUNTS.format("sasrec_ce_next"): {"tuning": {"trials": 4}} | fitted}
        valid = {"overall": score[commit.rpartition(" ")[2]]}
        return facts.get(path, {"adjusted": {"tau": 0.5}, "valid": {"plain": valid, "adjusted": valid}})
    return made, done, SimpleNamespace(table=table, metrics=metrics)


def test_of_the_settings_tried_validation_takes_one_the_earliest_among_equals(trying):
    made, done, results = trying
    took = {"sft of one": 10.0, "sft of two": 20.0, "sft of three": 30.0, "unread": 99.0}
    first, second, baseline = compare(made, done, results, 0, 0, took).rows
    [facts] = second.facts
    assert facts["experiment"] == "two" and facts["chosen"] == 1 and "chosen" not in baseline.facts[0]
    assert second.metrics["natural.rec_w"].mean.value == 0.5
    assert {key: facts[key] for key in COSTS} == {"trials": 3, "trained_targets": 500, "trained_parameters": 70,
                                                  "fit_seconds": 60.0, "latency_ms": 5.0}
    assert {key: baseline.facts[0][key] for key in COSTS} == {
        "trials": 4, "trained_targets": 600, "trained_parameters": 9, "fit_seconds": 2.0, "latency_ms": 1.0}
    # nothing was fitted, and nobody timed it
    assert first.facts[0].items() >= {"trials": 0, "trained_parameters": 0, "fit_seconds": 0}.items()
    assert "latency_ms" not in first.facts[0]


@pytest.mark.parametrize(("row", "model", "expected"), [
    ("habits", "sft", {"trials": 1, "trained_targets": 9000, "trained_parameters": 3, "fit_seconds": 2.0}),
    ("fusion", "sft", {"trials": 1, "trained_targets": 9500, "trained_parameters": 73, "fit_seconds": 15.0}),
    ("fusion", "base", {"trials": 1, "trained_targets": 9000, "trained_parameters": 3, "fit_seconds": 5.0}),
])
def test_a_pool_costs_what_its_parts_cost(row, model, expected):
    facts = {COUNTS.format("instructions"): {"train": {"targets": 500}},
             COUNTS.format("sft"): {"trained_parameters": 70},
             COUNTS.format("predictions/habits"): {"trained_targets": 9000, "trained_parameters": 3}}
    made = SimpleNamespace(params=params_with(fusion__model=model), targets=(f"evaluate@{row}",),
                           keys={"habits": "a", "sft": "b", "fusion": "c"})
    results = SimpleNamespace(metrics=lambda commit, path: facts[path])
    assert costs(results, "commit", StudyRow(model=row), made, [made], {"a": 2.0, "b": 10.0, "c": 3.0}) == expected


def test_what_rows_took_is_shown_where_it_is_asked_for(trying):
    made, done, results = trying
    found = compare(replace(made, study=made.study.model_copy(update={"costs": False})), done, results, 0, 0)
    assert not any(COSTS.keys() & facts.keys() for row in found.rows for facts in row.facts)


def test_a_fit_that_nobody_saw_has_no_seconds(trying):
    made, done, results = trying
    found = compare(made, done, results, 0, 0, {"sft of one": 10.0, "sft of two": 20.0})
    assert "fit_seconds" not in found.rows[1].facts[0]


def test_a_repetition_counts_when_its_own_setting_has_run_and_says_how_many_have(trying):
    made, done, results = trying
    del done["two"]
    found = compare(made, done, results, 0, 0)
    assert found.rows[1].facts[0].items() >= {"chosen": 2, "tried": 2, "trials": 2, "experiment": "three"}.items()
    ran = SimpleNamespace(source=SimpleNamespace(format="simulated"))
    for settings in made.by_row["first"].values():
        settings[0].params = ran
    assert "Not finished yet: second 2 of 3 settings." in view.caption("ours", made, found, request(), "abc")
    del done["one"]
    assert [row.name for row in compare(made, done, results, 0, 0).rows] == ["first", "baseline"]


@pytest.fixture
def log():
    rng, count = np.random.default_rng(1), 500
    return pl.DataFrame({
        "user": np.sort(rng.integers(0, 9, count)).astype(np.uint64),
        "time": pl.Series(range(count)).cast(pl.Datetime("us")), "place": rng.choice(["home", "work", ""], count),
        "behavior": rng.choice(list("abcd"), count, p=[0.7, 0.2, 0.09, 0.01]), "offset": None,
    }, schema=tables.SCHEMAS["events"])


def test_shuffling_moves_behaviours_and_nothing_else(log):
    found = shuffled(log, 0)
    assert found.drop("behavior").equals(log.drop("behavior")) and found.columns == log.columns
    assert found["behavior"].value_counts().sort("behavior").equals(log["behavior"].value_counts().sort("behavior"))
    assert not found["behavior"].equals(log["behavior"])
    # a user's behaviours are everybody's
    assert not found["behavior"].filter(log["user"] == 0).sort().equals(log["behavior"].filter(log["user"] == 0).sort())


def test_shuffling_is_seeded(log):
    assert shuffled(log, 3).equals(shuffled(log, 3)) and not shuffled(log, 3).equals(shuffled(log, 4))


@pytest.mark.parametrize(("key", "value", "shown"), [
    ("source.path", "data/raw/log.csv", "log.csv"), ("source.path", "/home/somebody/logs", "logs"),
    ("source.path", "C:\\somebody\\log.csv", "log.csv"), ("model.name", "/home/somebody/model", "model"),
    ("auxiliary.source", "~/chats.json", "chats.json"),
    ("auxiliary.source", "data/auxiliary/chat.json", "data/auxiliary/chat.json"),
    ("model.name", "HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-360M-Instruct"),
    ("sft.epsilon", 0.1, 0.1),
])
def test_no_folder_of_a_machine_is_shown(key, value, shown):
    assert view.public({key: value}) == {key: shown}


def request(**options):
    setting = Setting(title="A log", set={"source.path": "/home/somebody/log.csv", "windowing.natural": 300})
    return view.Request(**{"setting_name": "own", "setting": setting, "overrides": {}, **options})


def test_the_command_line_repeats_what_was_asked_for():
    asked = request(overrides={"source.files": "*.csv", "source.path": "/home/somebody/x y", "sft.epsilon": 0.1},
                    seeds=3, rows=("ours", "base"))
    assert asked.command("table4") == ("python -m stages.study table4 --setting own --seeds 3 -S 'source.files=*.csv' "
                                       "-S 'source.path=x y' -S sft.epsilon=0.1 --rows ours base")
    assert request(setting_name="default").command("table4") == "python -m stages.study table4"
    assert request(setting_name="default", all_rows=True).command("table4").endswith("stages.study table4 --all-rows")
    assert request(setting_name="default", reference="base", rows=("ours",)).command("table4").endswith(
        "stages.study table4 --reference base --rows ours")


@pytest.fixture
def written(study, summary_of, tmp_path, monkeypatch):
    """A planted study as it is written, of which the second row lacks a repetition; Markdown and JSON."""
    planted, names = study()
    labels = [row.name for row in planted]
    monkeypatch.setattr(view, "commit", lambda **asked: Commit("abc1234", False))
    elsewhere = StudyRow(set={"model.name": "/home/somebody/model"},
                         alternatives=[{"model.name": "/home/somebody/other"}])
    declared = Study(title="Planted", reference=labels[0], rows=dict.fromkeys(labels, elsewhere), show_validation=True)
    ran = SimpleNamespace(params=params_with(source__format="simulated"))
    values = {name: dict.fromkeys(range(3 + (name == labels[1])), (ran,)) for name in labels}
    summary = summary_of(planted, names, reference=labels[0])
    asked = request(overrides={"sft.epochs": 2})
    view.write("planted", Plan(declared, declared.rows, [], values), summary, asked, tmp_path)
    return labels, (tmp_path / "planted.md").read_text(encoding="utf-8"), read_json(tmp_path / "planted.json")


def test_a_table_says_what_it_is_of_and_how_to_make_it_again(written):
    labels, text, content = written
    assert "Setting `own`: A log." in text and "`windowing.natural=300`, `sft.epochs=2`" in text
    assert "3 repetitions: seed 0, 1, 2." in text and "Commit abc1234." in text
    assert "`python -m stages.study planted --setting own -S sft.epochs=2`" in text
    assert f"Not finished yet: {labels[1]} 3 of 4." in text
    assert "| row | validation |" in text
    assert "**The log is simulated.**" in text and content["simulated"] and content["format"] == "simulated"
    assert content["show_validation"] and content["gap"] is None
    assert content["commit"] == "abc1234" and content["command"].startswith("python -m stages.study planted")
    assert content["setting"] == {"source.path": "log.csv", "windowing.natural": 300}
    assert content["overrides"] == {"sft.epochs": 2}
    assert content["row_settings"][labels[0]]["set"] == {"model.name": "model"}
    assert content["row_settings"][labels[0]]["alternatives"] == [{"model.name": "other"}]
    assert [row["name"] for row in content["rows"]] == labels
    assert "somebody" not in text and "somebody" not in str(content)


@pytest.mark.parametrize("finished", [2, 1])
def test_how_far_rows_come_is_shown_where_both_ends_are(study, summary_of, tmp_path, finished):
    planted, names = study()
    labels = [row.name for row in planted]
    ran = (SimpleNamespace(params=params_with(source__format="simulated")),)
    gap = {"baseline": labels[0], "ceiling": labels[1], "metric": "natural.rec_w"}
    declared = Study(title="Planted", reference=labels[0], rows={name: StudyRow() for name in labels}, gap=gap,
                     metrics=["natural.rec_w"])
    summary = summary_of(planted[:finished], names, reference=labels[0], metrics=declared.metrics)
    made = Plan(declared, declared.rows, [], {name: {0: ran} for name in labels})
    view.write("planted", made, summary, request(), tmp_path)
    text, content = (tmp_path / "planted.md").read_text(encoding="utf-8"), read_json(tmp_path / "planted.json")
    assert ("Share of the way" in text) == (finished == 2) == (content["gap"] is not None)
