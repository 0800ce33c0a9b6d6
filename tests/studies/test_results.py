"""From finished experiments to rows: decisions, groups of the tail, what may be shown; and the shuffled control."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.ranking.adjust import adjusted
from stages.ranking.decisions import decided
from stages.studies import view
from stages.studies.collect import tail_groups
from stages.studies.definitions import Row, Setting, Study
from stages.studies.experiments import Finished
from stages.studies.plan import Plan
from stages.studies.results import compare
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
    study = Study(title="Ours", reference="first", groups=["near_tail"], rows={"first": Row(), "second": Row()})
    experiments = {row: {0: SimpleNamespace(mark=row, name=f"ours-{row}-0-{row}")} for row in study.rows}
    made = Plan(study, study.rows, [], experiments)
    with pytest.raises(UserError, match="no experiment of its row first is finished"):
        compare(made, done, SimpleNamespace(), 10, 0)


@pytest.fixture
def log():
    rng, count = np.random.default_rng(1), 500
    return pl.DataFrame({
        "user": np.sort(rng.integers(0, 9, count)).astype(np.uint64),
        "time": pl.Series(range(count)).cast(pl.Datetime("us")), "place": rng.choice(["home", "work", ""], count),
        "behavior": rng.choice(list("abcd"), count, p=[0.7, 0.2, 0.09, 0.01]),
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


@pytest.fixture
def written(study, summary_of, tmp_path, monkeypatch):
    """A planted study as it is written, of which the second row lacks a repetition; Markdown and JSON."""
    planted, names = study()
    labels = [row.name for row in planted]
    monkeypatch.setattr(view, "_commit", lambda: "abc1234")
    declared = Study(title="Planted", reference=labels[0], rows={name: Row(set={"model.name": "/home/somebody/model"})
                                                                 for name in labels}, show_validation=True)
    ran = SimpleNamespace(params=params_with(source__format="simulated"))
    values = {name: {value: ran for value in range(3 + (name == labels[1]))} for name in labels}
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
    assert content["show_validation"] and content["way"] is None
    assert content["commit"] == "abc1234" and content["command"].startswith("python -m stages.study planted")
    assert content["setting"] == {"source.path": "log.csv", "windowing.natural": 300}
    assert content["overrides"] == {"sft.epochs": 2}
    assert content["row_settings"][labels[0]]["set"] == {"model.name": "model"}
    assert [row["name"] for row in content["rows"]] == labels
    assert "somebody" not in text and "somebody" not in str(content)
