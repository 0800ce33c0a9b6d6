"""Rows and repetitions become experiments: as few as there are different results."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from stages.common.errors import UserError
from stages.studies.definitions import Setting, Study, read_studies
from stages.studies.overrides import SETTINGS, applied, budget_trials, value_of
from stages.studies.pipeline import Pipeline
from stages.studies.plan import in_turn, plan, stage_runs
from tests.contract.imports import ROOT

PARAMS = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
PIPELINE = Pipeline(ROOT)
BUDGET, RATE = f"{SETTINGS}:budget.trials", f"{SETTINGS}:sasrec.learning_rate"
SETTING = Setting(title="as it is")


def made(rows, setting=SETTING, extra=None, values=None, only=(), name="ours", workspace=PARAMS, method=None, **study):
    given_ = {"title": "Ours", "reference": next(iter(rows)), "values": [0, 1], "rows": rows}
    study = Study.model_validate(given_ | study)
    return plan(study, name, setting, workspace, PIPELINE, extra or {}, values, only, method or {})


def test_rows_with_equal_settings_share_an_experiment_and_unite_their_targets():
    found = made({"dpo": {}, "sft": {"model": "sft"}, "adjusted": {"model": "sft", "decision": "adjusted"},
                  "markov": {"model": "markov"}})
    assert len(found.experiments) == 2
    first = found.experiments[0]
    assert first.targets == ("evaluate@dpo", "evaluate@sft", "reference")
    assert all(by_value[0] == (first,) for by_value in found.by_row.values())
    assert first.overrides == {} and found.experiments[1].overrides == {"seed": 1}


def test_a_baseline_is_evaluated_in_its_own_pipeline_and_takes_no_other_row_along():
    rows = {"ours": {}, "baseline": {"model": "sasrec_ce_next"}, "other": {"model": "sasrec_bce_id"},
            "adjusted": {"model": "sasrec_ce_next", "decision": "adjusted"}}
    found = made(rows, values=[0])
    ours, baseline, other = found.experiments
    path = "stages/baselines/dvc.yaml:"
    assert ours.targets == ("evaluate@dpo",) and baseline.targets == (f"{path}evaluate@sasrec_ce_next",)
    assert {"ingest", "windowing", f"{path}sasrec@ce-next"} <= baseline.keys.keys() and "sft" not in baseline.keys
    assert not [stage for stage in baseline.keys if "bce" in stage]
    assert other.targets == (f"{path}evaluate@sasrec_bce_id",)
    assert found.by_row["adjusted"][0] == (baseline,)
    # whichever baselines there are, ours is the same experiment
    assert made({"ours": {}}, values=[0]).experiments[0].mark == ours.mark


def test_a_row_tries_as_many_settings_as_a_baseline_may():
    alternatives = [{"sft.learning_rate": rate} for rate in (0.1, 0.01, 0.003, 0.002, 0.005)]
    rows = {"one": {"model": "sft"}, "tries": {"model": "sft", "alternatives": alternatives}}
    for most in (1, 3, 6):
        found = made(rows, values=[0, 1], extra={BUDGET: most})
        for value in (0, 1):
            own, *others = found.by_row["tries"][value]
            assert (own,) == found.by_row["one"][value], "its own params are the first setting"
            rates = [each["sft.learning_rate"] for each in alternatives]
            assert [each.params.sft.learning_rate for each in others] == rates[: most - 1]
        assert len(in_turn([found])) == len(found.experiments) == 2 * min(most, 6)
        assert {each.trials for each in found.experiments} == {most}
        assert {each.params.seed for each in in_turn([found])[: len(found.experiments) // 2]} == {0}
    assert made(rows, values=[0]).experiments[0].trials == value_of(PIPELINE.settings, "budget.trials")


def test_a_setting_is_tried_once():
    alternatives = [{"sft.epochs": 3}, {"sft.epochs": 2}]
    with pytest.raises(UserError, match="row one: alternatives: {'sft.epochs': 2}: the row tries these values already"):
        made({"one": {"model": "sft", "alternatives": alternatives}}, extra={"sft.epochs": 2})


@pytest.mark.parametrize(("budget", "message"), [
    ({"trials": 0}, "budget.trials: 0: expected"), ({"trials": "four"}, "budget.trials: 'four': expected"),
    ({"trials": True}, "budget.trials: True: expected"), ({"trails": 4}, "there is no key budget.trials"),
])
def test_how_many_settings_may_be_tried_is_checked(budget, message):
    with pytest.raises(UserError, match=f"{SETTINGS}: {message}"):
        budget_trials({"budget": budget})


def test_a_setting_of_a_baseline_is_given_to_dvc_and_makes_another_result_of_that_baseline_alone():
    rows = {"baseline": {"model": "sasrec_ce_next"}, "other": {"model": "bert4rec_next"}}
    before, after = (made(rows, values=[0], extra=extra).experiments for extra in ({}, {RATE: [0.5, 0.1]}))
    assert after[0].overrides == after[1].overrides == {RATE: [0.5, 0.1]}
    assert before[0].mark != after[0].mark and before[1].mark == after[1].mark
    assert before[0].keys["windowing"] == after[0].keys["windowing"]
    # what is in the file already is no override
    there = value_of(PIPELINE.settings, "sasrec.learning_rate")
    assert made(rows, values=[0], extra={RATE: there}).experiments[0] == before[0]


def test_a_budget_is_of_the_whole_study():
    with pytest.raises(UserError, match=f"study ours, row one: {BUDGET}: all rows have the same budget"):
        made({"one": {"set": {BUDGET: 9}}})
    setting = Setting(title="less", set={BUDGET: 2})
    rows = {"ours": {"model": "sft", "alternatives": [{"sft.epochs": 2}, {"sft.epochs": 3}]},
            "baseline": {"model": "sasrec_ce_next"}}
    found = made(rows, setting=setting, values=[0])
    assert len(found.by_row["ours"][0]) == 2
    baseline = found.by_row["baseline"][0][0]
    assert baseline.overrides[BUDGET] == 2 and baseline.mark != made(rows, values=[0]).by_row["baseline"][0][0].mark


@pytest.mark.parametrize(("key", "value", "message"), [
    (f"{SETTINGS}:sasrec.dropout", 0.5, "0.5: expected a list of values to try, the default first, such as"),
    (BUDGET, [4], "[4]: expected one value, such as 4"), (BUDGET, 0, "budget.trials: 0: expected a whole number"),
    (f"{SETTINGS}:budget", {"trials": 1}, "a section; override its keys: trials, valid_windows, patience"),
])
def test_a_baselines_setting_of_another_kind_is_refused_before_anything_runs(key, value, message):
    with pytest.raises(UserError, match=re.escape(message)):
        made({"one": {}}, extra={key: value})


@pytest.mark.parametrize(("key", "message"), [
    ("stages/baselines/params.yaml:budget.trails", "stages/baselines/params.yaml: there is no key budget.trails"),
    ("stages/params.yaml:budget.trials",
     "stages/params.yaml:budget.trials: stages/params.yaml is no file of params; there are: params.yaml, stages/base"),
    ("params.yaml:seed", "params.yaml:seed: keys of params.yaml have no file before them; write seed"),
])
def test_a_key_of_no_file_is_named(key, message):
    with pytest.raises(UserError, match=f"study ours: {message}"):
        made({"one": {}}, extra={key: 1})


def test_one_window_of_our_models_is_timed_where_costs_are_asked_for():
    rows = {"ours": {}, "baseline": {"model": "sasrec_ce_next"}, "counted": {"model": "past"},
            "habits": {"model": "habits"}, "pool": {"model": "fusion"}}
    found = made(rows, values=[0], costs=True)
    path = "stages/baselines/dvc.yaml:"
    assert [each.targets for each in found.experiments] == [
        ("evaluate@dpo", f"{path}timing@dpo", "reference", "evaluate@habits", "evaluate@fusion"),
        (f"{path}evaluate@sasrec_ce_next",)]


def test_a_pool_of_another_model_is_another_experiment_and_needs_that_models_stages():
    rows = {"sft": {"model": "fusion"}, "dpo": {"model": "fusion", "set": {"fusion.model": "dpo"}},
            "other": {"model": "fusion", "set": {"fusion.model": "dpo", "dpo.beta": 0.7}}}
    found = made(rows, values=[0])
    assert len({each.mark for each in found.experiments}) == 3
    assert ["dpo" in each.keys for each in found.experiments] == [False, True, True]


def test_a_model_that_there_is_not_is_named_with_those_there_are():
    with pytest.raises(UserError, match="study ours, row one: model 'gpt': there is none; there are: habits, .*sasrec"):
        made({"one": {"model": "gpt"}})


def test_groups_need_the_embeddings():
    found = made({"dpo": {}}, groups=["near_tail"])
    assert found.experiments[0].targets == ("evaluate@dpo", "embeddings")


def test_params_that_cannot_matter_make_no_experiment():
    found = made({"one": {"model": "sft"}, "two": {"model": "sft", "set": {"dpo.beta": 0.7}}}, values=[0])
    assert len(found.experiments) == 1
    [experiment] = found.experiments
    # the row that is run gives its name to both: there is no other to apply
    assert found.by_row["one"][0] == found.by_row["two"][0] == (experiment,)
    assert experiment.name.startswith("ours-one-0-")


def test_what_is_not_trained_is_run_once_for_all_seeds():
    found = made({"base": {"model": "base"}, "dpo": {}}, values=[0, 1, 2])
    # the first repetition's row `base` shares the settings of `dpo`; the others' are the workspace's but for the seed
    assert len({experiment.mark for experiment in found.experiments}) == len(found.experiments) == 3
    alone = made({"base": {"model": "base"}}, values=[0, 1, 2])
    [experiment] = alone.experiments
    assert all(found == (experiment,) for found in alone.by_row["base"].values())


def test_all_rows_of_a_repetition_come_before_the_next():
    found = made({"one": {}, "two": {"set": {"dpo.beta": 0.7}}, "three": {"set": {"dpo.beta": 0.8}}}, values=[3, 1])
    names = [experiment.name.rpartition("-")[0] for experiment in found.experiments]
    assert names == ["ours-one-3", "ours-two-3", "ours-three-3", "ours-one-1", "ours-two-1", "ours-three-1"]


def test_several_studies_take_turns_and_share_what_is_equal():
    first = made({"one": {}, "two": {"set": {"dpo.beta": 0.7}}}, name="first")
    second = made({"same": {}, "other": {"set": {"dpo.beta": 0.8}}}, name="second", values=[0, 1, 2])
    names = [experiment.name.rpartition("-")[0] for experiment in in_turn([first, second])]
    assert names == ["first-one-0", "first-two-0", "second-other-0", "first-one-1", "first-two-1", "second-other-1",
                     "second-same-2", "second-other-2"]
    assert in_turn([first]) == first.experiments


def test_names_say_study_row_and_repetition_and_end_in_the_mark():
    found = made({"a_row": {}}, name="my_study")
    for experiment in found.experiments:
        assert experiment.name.startswith("my-study-a-row-") and experiment.name.endswith(f"-{experiment.mark}")
        assert "_" not in experiment.name
        assert len(experiment.mark) == 10 and set(experiment.mark) <= set("0123456789abcdef")


def test_a_shared_stage_is_counted_once():
    found = made({"dpo": {}, "beta": {"set": {"dpo.beta": 0.7}},
                  "anchors": {"model": "sft", "set": {"sft.labels": "anchors"}}})
    runs = stage_runs(found.experiments)
    counts = {stage: len(by) for stage, by in runs.items()}
    expected = {"ingest": 1, "auxiliary": 1, "instructions": 2, "sft": 4, "dpo": 4}
    assert {stage: counts[stage] for stage in expected} == expected
    # what finished experiments made is not made again
    rest = stage_runs(found.experiments[1:], found.experiments[:1])
    assert len(rest["sft"]) == 3 and "ingest" not in rest
    assert stage_runs(found.experiments, found.experiments) == {}


def test_precedence_of_overrides():
    keys = ["dpo.beta", "dpo.nll_weight", "sft.epsilon", "sft.warmup", "seed"]
    setting = Setting(title="s", set=dict.fromkeys(keys[:4], 0.1) | {"seed": 7})
    extra = dict.fromkeys(keys[2:4], 0.3) | {"seed": 8}
    found = made({"row": {"set": {"sft.warmup": 0.4, "seed": 9}}}, setting, extra, [5],
                 set=dict.fromkeys(keys[1:4], 0.2))
    params = found.experiments[0].params
    assert (params.dpo.beta, params.dpo.nll_weight, params.sft.epsilon, params.sft.warmup, params.seed) == (
        0.1, 0.2, 0.3, 0.4, 5)
    # what is the workspace's own value is no override: beta is 0.1 there too
    assert found.experiments[0].overrides == {"dpo.nll_weight": 0.2, "sft.epsilon": 0.3, "sft.warmup": 0.4, "seed": 5}


def test_another_default_recipe_changes_no_row():
    method = read_studies(ROOT / "stages" / "studies" / "studies.yaml").method
    recipe = {"sft.labels": "tail", "sft.logit_adjustment": 1, "dpo.nll_weight": 0.5, "evaluate.tau": 0}
    other = applied({"params.yaml": PARAMS}, recipe, "")["params.yaml"]
    rows = {"dpo": {}, "all": {"set": {"sft.labels": "all"}, "model": "sft"}}
    before, after = (made(rows, workspace=workspace, method=method) for workspace in (PARAMS, other))
    assert [e.mark for e in before.experiments] == [e.mark for e in after.experiments]
    assert after.experiments[0].params.sft.labels == "anchors"
    # without a method it is the default's
    assert made(rows, workspace=other).experiments[0].params.sft.labels == "tail"


def test_an_adjusted_row_has_tau_from_validation_whatever_the_others_decide_by():
    rows = {"plain": {}, "adjusted": {"decision": "adjusted"},
            "own": {"decision": "adjusted", "set": {"evaluate.tau": 2}}}
    found = made(rows, extra={"evaluate.tau": 0}, values=[0])
    tau = {name: by_value[0][0].params.evaluate.tau for name, by_value in found.by_row.items()}
    assert tau == {"plain": 0, "adjusted": "validation", "own": 2}


def test_rows_on_demand():
    rows = {"reference_row": {}, "plain": {"set": {"dpo.beta": 0.7}}, "special": {"model": "base", "needs": "a GPU"}}
    assert list(made(rows).rows) == ["reference_row", "plain"]
    assert list(made(rows, only=["special"]).rows) == ["reference_row", "special"]
    with pytest.raises(UserError, match="study ours: there is no row 'specal'; there are: reference_row, plain"):
        made(rows, only=["specal"])


@pytest.mark.parametrize(("overrides", "message"), [
    ({"sft.epsilom": 1}, "study ours, row one: params.yaml: there is no key sft.epsilom"),
    ({"sft.epsilon": "much"}, "study ours, row one: sft.epsilon: 'much': "),
    ({"windowing.min_history": 50}, "study ours, row one: windowing: min_history 50 is above history 20$"),
    ({"dpo": 3}, "study ours, row one: dpo: 3: "),
    ({"source.path": "nowhere.csv", "source.format": "table"}, "nowhere.csv: no such file"),
])
def test_overrides_that_no_run_could_have(overrides, message):
    with pytest.raises(UserError, match=message):
        made({"one": {"set": overrides}})


OVERRIDES = st.fixed_dictionaries({}, optional={
    "dpo.beta": st.sampled_from([0.1, 0.2]), "sft.epsilon": st.sampled_from([0.05, 0.1]),
    "selection.lambda": st.sampled_from([0.5, 1]), "windowing.natural": st.sampled_from([120, 100]),
    "evaluate.tau": st.sampled_from(["validation", 1]), "auxiliary.conversations": st.sampled_from([60, 50]),
})
ROW = st.fixed_dictionaries({"model": st.sampled_from(["base", "sft", "dpo", "markov"]), "set": OVERRIDES})


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=4))
def test_marks_are_equal_exactly_where_the_results_are(rows):
    found = made({f"row_{place}": row for place, row in enumerate(rows)})
    by_mark = {}
    for experiment in found.experiments:
        results = tuple(sorted(experiment.keys[target] for target in experiment.targets))
        by_mark.setdefault(experiment.mark, set()).add(results)
        assert set(experiment.targets) <= experiment.keys.keys()
    # one set of results for each mark, and one mark for each set of results
    assert all(len(results) == 1 for results in by_mark.values())
    assert len({results for found in by_mark.values() for results in found}) == len(by_mark) == len(found.experiments)
    for place, row in enumerate(rows):
        for value, [experiment] in found.by_row[f"row_{place}"].items():
            own = made({"alone": row}, values=[value])
            [mine] = own.experiments
            # shared or not, the row's own results are among the experiment's
            assert all(experiment.keys[target] == mine.keys[target] for target in mine.targets)
            assert (experiment.mark == mine.mark) == (set(experiment.targets) == set(mine.targets))
