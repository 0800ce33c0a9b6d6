"""The verdict agrees with the intervals, cites rows of this run only, and says what adjusted logits cost."""

from dataclasses import replace

import pytest

from stages.reports import answer as verdicts
from stages.reports.answer import answer
from stages.reports.differences import DECISIONS, Difference, differences
from stages.reports.inputs import COUNTING
from stages.reports.labels import row_names
from stages.studies.definitions import LANGUAGE_MODELS, MODELS
from stages.studies.repository import commit
from stages.studies.table import gap_closed, number
from tests.reports.made_page import section, words

KEYS = ("balanced.overall", "balanced.tail", "natural.rec_w")
AHEAD, BEHIND, OPEN = Difference(0.1, 0.05, 0.15), Difference(-0.1, -0.15, -0.05), Difference(0.1, 0.0, 0.2)


def verdict(inputs):
    """The sentence."""
    return words(section("answer", inputs).split("</p>")[0])


def planted(monkeypatch, of):
    """Every difference of the verdict is `of`."""
    monkeypatch.setattr(verdicts, "differences",
                        lambda inputs, pairs: {pair: dict.fromkeys(KEYS, of) for pair in pairs})


def scored(inputs, **scores):
    """The run, its models' scores on validation windows replaced: `sft_adjusted=0.9`."""
    metrics = dict(inputs.metrics)
    for name, score in scores.items():
        row, decision = name.split("_")
        valid = metrics[row]["valid"]
        metrics[row] = metrics[row] | {"valid": valid | {decision: valid[decision] | {"overall": score}}}
    return replace(inputs, metrics=metrics)


def test_a_difference_has_a_sign_only_where_its_interval_excludes_0():
    assert [one.sign for one in (AHEAD, BEHIND, OPEN, Difference(0.1, None, None))] == [1, -1, 0, None]


@pytest.mark.parametrize(("of", "says"), [
    (AHEAD, "in overall it is ahead of"), (OPEN, "in overall it is not shown to differ from"),
    (BEHIND, "in overall it is behind"), (Difference(0.1, None, None), "in overall it is without an interval against"),
])
def test_how_sure_it_is_follows_the_intervals(inputs, monkeypatch, of, says):
    planted(monkeypatch, of)
    said = words(section("answer", inputs))
    assert says in said and "simulated log" in said
    assert said.count(says.removeprefix("in overall it is ")) >= len(answer(inputs).against)


@pytest.mark.parametrize(("chosen", "absent"), [
    ("fusion", set()), ("habits", {"no language model"}), ("sft", {"a language model alone"}),
    ("base", {"a language model alone", "no tuning"}),
])
def test_a_model_is_compared_with_every_kind_that_it_is_not_of(inputs, chosen, absent):
    made = answer(scored(inputs, **{f"{chosen}_plain": 0.99}))
    roles = {role: each.other[0] for each in made.against for role in each.roles}
    assert {"counting", "no language model", "a language model alone", "no tuning"} - roles.keys() == absent
    assert roles["counting"] in COUNTING and roles.get("a language model alone", "dpo") in LANGUAGE_MODELS
    assert chosen not in roles.values() and roles.get("no language model", "habits") == "habits"


def test_one_sentence_names_the_model_that_validation_prefers(inputs, monkeypatch):
    planted(monkeypatch, OPEN)
    for row in MODELS:
        for decision in ("plain", "adjusted"):
            made = scored(inputs, **{f"{row}_{decision}": 0.99})
            said = verdict(made)
            assert answer(made).chosen == (row, decision)
            assert said.startswith(f"Take {row_names(inputs)[row]}") and f"models/{row}" in said
            assert said.count(". ") == 1 and said.endswith(". simulated log")
            assert ("with adjusted logits" in said) == (decision == "adjusted")


def test_adjusted_logits_are_said_to_be_for_what_and_at_which_cost(inputs):
    made = scored(inputs, sft_adjusted=0.99)
    said = verdict(made)
    plain, adjusted = (made.metric("sft", decision, "natural.rec_w").value for decision in ("plain", "adjusted"))
    assert "if every behaviour is to count alike" in said
    assert f"at the cost of natural accuracy, {number(adjusted)} instead of {number(plain)}" in said
    assert number(made.metric("sft", "adjusted", "balanced.overall").value) in said
    assert "cost" not in verdict(scored(inputs, sft_plain=0.99))


def test_every_difference_is_of_this_runs_rows_and_agrees_with_the_metrics(inputs):
    inputs = scored(inputs, fusion_plain=0.99)
    found = answer(inputs)
    said = words(section("answer", inputs))
    assert {"the next best", "counting", "no language model", "a language model alone", "no tuning"} == {
        role for each in found.against for role in each.roles}
    for each in found.against:
        for name in KEYS:
            difference = each.found[name]
            sides = [inputs.metric(*option, name).value for option in (found.chosen, each.other)]
            assert sides[0] - sides[1] == pytest.approx(difference.value)
            assert (f"{number(difference.value, sign=True)} {number(difference.low)} to "
                    f"{number(difference.high)}") in said


def test_counting_is_what_to_take_where_it_is_shown_to_be_ahead(inputs, monkeypatch):
    planted(monkeypatch, BEHIND)
    said = verdict(inputs)
    counting = answer(inputs).beaten_by[0]
    valid = {row: max(inputs.metrics[row]["valid"][decision]["overall"] for decision in DECISIONS)
             for row in COUNTING}
    assert counting == max(valid, key=valid.get)
    assert said.startswith(f"Take none of this run’s models where counting will do: {row_names(inputs)[counting]}")
    assert row_names(inputs)[answer(inputs).chosen[0]] in said


def test_without_predictions_nothing_is_claimed_and_the_cure_is_named(inputs):
    said = words(section("answer", replace(inputs, predictions={})))
    assert "dvc pull" in said and "ahead of Markov" not in said and "not shown" not in said


def test_with_one_model_there_is_no_answer_yet(inputs):
    only = replace(inputs, metrics={"base": inputs.metrics["base"]})
    said = verdict(only)
    others = " ".join(f"evaluate@{model}" for model in MODELS if model != "base")
    assert said.startswith("No answer yet") and f"dvc repro {others}" in said


def test_no_model_is_cited_that_this_run_has_not_and_no_study(inputs):
    metrics = {name: values for name, values in inputs.metrics.items() if name not in ("sft", "markov")}
    made = replace(inputs, metrics=metrics, predictions={n: p for n, p in inputs.predictions.items() if n in metrics})
    said = words(section("answer", made))
    assert "Markov" not in said and "Not evaluated in this run: dvc repro evaluate@sft" in said
    assert "models/sft" not in said and "sft" not in {each.other[0] for each in answer(made).against}
    for part in (said, words(section("answer", inputs))):
        assert "stages.study" not in part and "planted" not in part.lower()


def test_the_oracle_cannot_be_taken(inputs):
    found = answer(scored(inputs, oracle_plain=1.0, oracle_adjusted=1.0))
    assert "oracle" not in {found.chosen[0], found.natural[0], *(each.other[0] for each in found.against)}


def test_a_real_log_is_not_called_simulated(inputs):
    counts = inputs.counts | {"ingest": inputs.counts["ingest"] | {"format": "table"}}
    metrics = {name: values for name, values in inputs.metrics.items() if name != "oracle"}
    said = words(section("answer", replace(inputs, counts=counts, metrics=metrics)))
    assert "simulated" not in said.lower() and "oracle" not in said


def test_a_tau_that_was_given_is_not_called_chosen(inputs):
    made = scored(inputs, dpo_adjusted=0.99)
    assert "Chosen on validation windows, as was τ" in words(section("answer", made))
    fixed = replace(made, ran_with=made.ran_with | {"evaluate.tau": 1.0})
    assert "with the τ of evaluate.tau" in words(section("answer", fixed))


@pytest.mark.parametrize(("labels", "sft", "dpo"), [
    ("anchors", "SFT on anchors", "DPO after SFT on anchors"), ("all", "SFT on all", "DPO after SFT on all"),
    ("none", "no SFT", "DPO alone"),
])
def test_models_are_called_by_what_they_were_tuned_on(inputs, labels, sft, dpo):
    other = replace(inputs, ran_with=inputs.ran_with | {"sft.labels": labels})
    assert (row_names(other)["sft"], row_names(other)["dpo"]) == (sft, dpo)
    assert ("A-Tuning" in words(section("model", other))) == (labels == "anchors")
    assert "A-Tuning" not in words(section("answer", other))


def test_the_verdicts_differences_are_those_of_the_two_tables(inputs):
    pair = (("dpo", "adjusted"), ("markov", "plain"))
    found = differences(inputs, [pair])[pair]
    sides = [inputs.metric(*option, "balanced.overall").value for option in pair]
    assert found["balanced.overall"].value == pytest.approx(sides[0] - sides[1])


@pytest.mark.parametrize(("row", "gone"), [(0.2, 0.0), (0.6, 1.0), (0.4, 0.5), (0.1, -0.25)])
def test_the_share_of_the_way(row, gone):
    assert gap_closed(row, 0.2, 0.6) == pytest.approx(gone)
    assert gap_closed(row, 0.2, 0.205) is None and gap_closed(None, 0.2, 0.6) is None
    assert gap_closed(row, 0.6, 0.2) is None


def test_no_commit_outside_git(tmp_path):
    assert commit(tmp_path / "nowhere").name is None
