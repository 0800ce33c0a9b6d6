"""stages/studies/studies.yaml holds what people ask for, and what is wrong in such a file is named."""

import pytest
from ruamel.yaml import YAML

from stages.common.errors import UserError
from stages.studies.definitions import read_overrides, read_studies
from stages.studies.overrides import SETTINGS, applied
from tests.contract.imports import ROOT

CATALOGUE = read_studies(ROOT / "stages" / "studies" / "studies.yaml")
FILES = {path: YAML(typ="safe", pure=True).load((ROOT / path).read_text(encoding="utf-8"))
         for path in ("params.yaml", SETTINGS)}
PARAMS = FILES["params.yaml"]

GOOD = """
settings: {default: {title: as it is}}
studies:
  ours:
    title: Ours
    reference: first
    rows: {first: {}, second: {set: {sft.epsilon: 0}}}
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "studies.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_study_is_there():
    assert {"table3", "table4", "table4_v1", "table5", "table6", "table7", "table8", "fig1c", "fig3a", "fig3b", "fig4",
            "fig5", "recipes", "lambda", "confusion_term", "difficulty_rules", "logit_adjustment", "context",
            "disjoint_tail", "kfold"} <= CATALOGUE.studies.keys()
    assert {"default", "foursquare"} <= CATALOGUE.settings.keys()
    assert len(CATALOGUE.studies["kfold"].values) == 10 and CATALOGUE.studies["kfold"].repeat == "windowing.fold"


@pytest.mark.parametrize("name", CATALOGUE.studies)
def test_every_study_has_the_cheapest_baseline_and_at_least_five_repetitions(name):
    study = CATALOGUE.studies[name]
    baselines = [row for row in study.rows.values()
              if row.model == "sft" and row.decision == "adjusted" and row.set.get("sft.labels") == "all"]
    assert baselines and not all(row.needs for row in baselines)
    assert len(study.values) >= 5 and study.title and not study.rows[study.reference].needs


@pytest.mark.parametrize("setting", CATALOGUE.settings)
@pytest.mark.parametrize("name", CATALOGUE.studies)
def test_every_override_is_a_key_of_params_with_a_value_in_range(name, setting):
    study = CATALOGUE.studies[name]
    for row, entry in study.rows.items():
        for value in (study.values[0], study.values[-1]):
            overrides = {**CATALOGUE.settings[setting].set, **study.set, **entry.set, study.repeat: value}
            applied(FILES, overrides, f"study {name}, row {row}")


def test_the_validation_score_is_shown_where_one_chooses_by_it():
    shown = {name for name, study in CATALOGUE.studies.items() if study.show_validation}
    assert shown == {"recipes", "logit_adjustment", "oracle"}


def test_a_name_that_is_not_there_gets_the_closest_one(written):
    assert CATALOGUE.study("table4").title and CATALOGUE.setting("default").set == {}
    with pytest.raises(UserError, match=r"study 'tabel4': .* did you mean `table4`\?; there are: table3, "):
        CATALOGUE.study("tabel4")
    with pytest.raises(UserError, match="setting 'zzz': there is none of that name; there are: default, "):
        CATALOGUE.setting("zzz")


def test_a_study_may_be_compared_with_another_of_its_rows():
    study = CATALOGUE.study("table4")
    other = study.against("no_dpo")
    assert (other.reference, study.reference) == ("no_dpo", "ours") and other.rows == study.rows
    assert study.against(None) is study
    with pytest.raises(UserError, match=r"row 'nodpo': .* did you mean `no_dpo`\?"):
        study.against("nodpo")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("reference: first", "reference: frist", "studies.ours: reference 'frist' is none of its rows: first, second"),
    ("first: {}", "first: {modle: sft}", "studies.ours.rows.first.modle: "),
    ("first: {}", "first: {model: GPT 4}", "studies.ours.rows.first.model: "),
    ("first: {}", "first: {model: markov, alternatives: [{sft.epochs: 2}]}",
     "alternatives: model markov, decision plain: validation can"),
    ("first: {}", "first: {model: sasrec_ce_next, alternatives: [{sft.epochs: 2}]}",
     "alternatives: model sasrec_ce_next, decision plain"),
    ("first: {}", "first: {decision: textbook, alternatives: [{sft.epochs: 2}]}",
     "alternatives: model dpo, decision textbook: "),
    ("first: {}", "First Row: {}", r"studies.ours.rows.First Row.*: "),
    ("title: Ours", "title: Ours\n    values: [0, 1, 0]", r"values \[0, 1, 0\]: expected one or more, all different"),
    ("title: Ours", "title: Ours\n    values: []", r"values \[\]: expected one or more, all different"),
    ("title: Ours", "title: Ours\n    repeat: data_seed", "studies.ours.repeat: "),
    ("title: Ours", "title: Ours\n    groups: [rare]", "studies.ours.groups.0: "),
    ("title: Ours", "titel: Ours", "(?s)studies.ours.title: .*studies.ours.titel: "),  # all at once
    ("rows: {first: {}", "rows: {first: {", "not valid YAML"),
    (GOOD, "", "Input should be"),
    (GOOD, "- a list", "Input should be"),
])
def test_what_is_wrong_is_named(written, old, new, message):
    path = written(GOOD.replace(old, new))
    with pytest.raises(UserError, match=message) as error:
        read_studies(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_studies(tmp_path / "studies.yaml")


def test_overrides_of_the_command_line():
    texts = ["sft.epochs=2", "dpo.learning_rate=5e-5", "source.time_zone=", "source.files='*.csv'", "ε=0.1",
             "model.name=a=b", "x.y=true"]
    assert read_overrides(texts, {"sft", "dpo", "source", "model"}) == {
        "sft.epochs": 2, "dpo.learning_rate": 5e-5, "source.time_zone": "", "source.files": "*.csv", "sft.epsilon": 0.1,
        "model.name": "a=b", "x.y": True}


@pytest.mark.parametrize(("text", "message"), [
    ("sft.epochs", "expected KEY=VALUE"), ("=2", "expected KEY=VALUE"), ("source.files=*.csv", "is no value; quote it"),
])
def test_overrides_that_cannot_be_read(text, message):
    with pytest.raises(UserError, match=message):
        read_overrides([text], {"sft"})


def test_a_recipe_stands_for_its_values_and_what_is_beside_it_wins(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = read_overrides(["sft.epsilon=0.2", "recipe=paper"], set(PARAMS))
    assert (found["sft.epsilon"], found["dpo.nll_weight"], found["selection.method"]) == (0.2, 0, "kmeans")
    with pytest.raises(UserError, match="recipe=papers: no such recipe; one of paper"):
        read_overrides(["recipe=papers"], set(PARAMS))
