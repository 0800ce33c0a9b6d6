"""Keys of stages: what changes a stage's result changes its key and those of the stages after it, and no other."""

import copy
import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.common.errors import UserError
from stages.studies import pipeline
from stages.studies.definitions import MODELS
from stages.studies.overrides import SETTINGS, value_of
from stages.studies.pipeline import Pipeline
from tests.contract.imports import ROOT

TARGETS = [f"evaluate@{model}" for model in MODELS] + ["reference", "embeddings"]
PARAMS = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
SETTINGS_HERE = YAML(typ="safe", pure=True).load((ROOT / SETTINGS).read_text(encoding="utf-8"))
ANSWERS = {}

MINI = """
stages:
  count:
    cmd: python -m stages.count --out data/counts
    deps: ['${source.path}', stages/count.py, stages/shared.py]
    params: [counting]
    outs: [data/counts]
  guess:
    matrix: {model: [one, two]}
    cmd: python -m stages.guess ${item.model}
    deps: [data/counts, stages/guess.py]
    params: [seed]
    outs: ['data/${item.model}']
    metrics: [{'metrics/${item.model}.json': {cache: false}}]
  score:
    cmd: python -m stages.score
    deps: [metrics/one.json, stages/shared.py]
    plots: [{plots/score.csv: {cache: false}}]
"""
MINI_PARAMS = {"seed": 0, "counting": {"least": 1}, "unread": 0,
               "source": {"format": "table", "path": "log.csv", "files": "*"}}


@pytest.fixture(autouse=True)
def asked_once(monkeypatch):
    """DVC, which takes seconds to answer, is asked once of one dvc.yaml."""
    def stages(root):
        text = (root / "dvc.yaml").read_text(encoding="utf-8")
        if text not in ANSWERS:
            ANSWERS[text] = ask(root)
        return ANSWERS[text]

    ask = pipeline._stages
    monkeypatch.setattr(pipeline, "_stages", stages)


@pytest.fixture
def mini(tmp_path):
    (tmp_path / "dvc.yaml").write_text(MINI, encoding="utf-8")
    (tmp_path / "params.yaml").write_text(json.dumps(MINI_PARAMS), encoding="utf-8")
    (tmp_path / "stages").mkdir()
    for name in ("log.csv", "stages/count.py", "stages/shared.py", "stages/guess.py"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    return tmp_path


def keys_with(root: Path, **overrides) -> dict[str, str]:
    return Pipeline(root).keys(["score", "guess@two"], {"params.yaml": {**MINI_PARAMS, **overrides}})


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def files(params):
    return {"params.yaml": params, SETTINGS: SETTINGS_HERE}


def with_value(key, value):
    params = copy.deepcopy(PARAMS)
    section, _, last = key.rpartition(".")
    (params[section] if section else params)[last] = value
    return params


@pytest.mark.parametrize(("key", "value", "stages"), [
    ("dpo.beta", 0.7, {"dpo", "predictions@dpo", "evaluate@dpo"}),
    ("fusion.beside", "reference/markov", {"fusion", "evaluate@fusion"}),
    ("habits.hidden", 8, {"habits", "evaluate@habits", "fusion", "evaluate@fusion"}),
    ("selection.per_behavior", 3, {"selection", "dpo", "predictions@dpo", "evaluate@dpo"}),
    ("evaluate.tau", 0.5, {*(f"evaluate@{model}" for model in MODELS), "reference", "fusion"}),
    ("seed", 7, {"instructions", "sft", "predictions@sft", "evaluate@sft", "scoring", "selection", "dpo",
                 "predictions@dpo", "evaluate@dpo", "habits", "evaluate@habits", "fusion", "evaluate@fusion"}),
])
def test_a_param_changes_the_stages_that_read_it_and_what_follows(key, value, stages):
    found = Pipeline(ROOT)
    before = found.keys(TARGETS, files(PARAMS))
    assert changed(before, found.keys(TARGETS, files(with_value(key, value)))) == stages
    assert changed(before, Pipeline(ROOT).keys(TARGETS, files(copy.deepcopy(PARAMS)))) == set()


def test_the_seed_of_training_leaves_what_is_measured_alone():
    found = Pipeline(ROOT)
    moved = changed(found.keys(TARGETS, files(PARAMS)), found.keys(TARGETS, files(with_value("seed", 7))))
    assert not moved & {"ingest", "windowing", "auxiliary", "base", "predictions@base", "evaluate@base", "reference",
                        "embeddings"}


@pytest.mark.parametrize(("file", "stages"), [
    ("stages/guess.py", {"guess@one", "guess@two", "score"}),
    ("stages/shared.py", {"count", "guess@one", "guess@two", "score"}),
    ("log.csv", {"count", "guess@one", "guess@two", "score"}),
])
def test_code_and_data_change_the_stages_that_need_them_and_what_follows(mini, file, stages):
    before = keys_with(mini)
    (mini / file).write_text("other", encoding="utf-8")
    assert changed(before, keys_with(mini)) == stages


def test_params_and_commands_in_a_small_pipeline(mini):
    before = keys_with(mini)
    assert changed(before, keys_with(mini, seed=1)) == {"guess@one", "guess@two", "score"}
    assert changed(before, keys_with(mini, counting={"least": 2})) == before.keys()
    assert changed(before, keys_with(mini, unread=1)) == set()
    text = MINI.replace("--out data/counts", "--out data/counts --fast")
    (mini / "dvc.yaml").write_text(text, encoding="utf-8")
    assert changed(before, keys_with(mini)) == before.keys()


def test_keys_do_not_depend_on_where_the_repository_is(mini, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(mini, other)
    (other / "stages" / "__pycache__").mkdir()
    assert keys_with(mini) == keys_with(other)


def test_stages_come_in_an_order_in_which_they_can_run(mini):
    found = Pipeline(mini)
    mini_files = {"params.yaml": MINI_PARAMS}
    assert found.needed(["score"], mini_files) == ["count", "guess@one", "score"]
    assert found.needed(["guess@two", "score", "count"], mini_files) == ["count", "guess@two", "guess@one", "score"]
    real = Pipeline(ROOT)
    order = real.needed(TARGETS, files(PARAMS))
    assert len(order) == len(set(order))
    for place, name in enumerate(order):
        assert {maker for dep in real.deps(name, files(PARAMS)).values() if (maker := real.makes(dep))} <= set(
            order[:place])


def test_what_a_pool_is_made_of_follows_its_params():
    found = Pipeline(ROOT)

    def stages(**pool):
        params = PARAMS | {"fusion": PARAMS["fusion"] | pool}
        return found.keys(["evaluate@fusion"], files(params)), files(params)

    default, _ = stages()
    assert {"habits", "predictions@sft", "reference"} <= default.keys() and "dpo" not in default
    other, changed_params = stages(model="dpo")
    assert {"dpo", "predictions@dpo"} <= other.keys() and other["fusion"] != default["fusion"]
    beta = changed_params["params.yaml"] | {"dpo": PARAMS["dpo"] | {"beta": 0.7}}
    assert found.keys(["evaluate@fusion"], files(beta))["fusion"] != other["fusion"]
    baseline, _ = stages(beside="baselines/sasrec_ce_next")
    assert "stages/baselines/dvc.yaml:sasrec@ce-next" in baseline and "reference" not in baseline
    with pytest.raises(UserError, match=r"predictions/nothing.parquet: no such file .*\(fusion.beside\)"):
        stages(beside="nothing")


def test_what_is_not_there(mini):
    with pytest.raises(UserError, match="there is no stage guess$"):
        Pipeline(mini).needed(["guess"], {"params.yaml": MINI_PARAMS})
    with pytest.raises(UserError, match=r"nowhere.csv: no such file or folder.*\(source.path\)"):
        keys_with(mini, source=MINI_PARAMS["source"] | {"path": "nowhere.csv"})
    (mini / "stages" / "guess.py").unlink()
    with pytest.raises(UserError, match="guess.py: no such file or folder, and a stage needs it$"):
        keys_with(mini)
    with pytest.raises(UserError, match="there is no key sft.epsilom"):
        value_of(PARAMS, "sft.epsilom")
    with pytest.raises(UserError, match="there is no key seed.x"):
        value_of(PARAMS, "seed.x")


def test_what_else_lies_beside_the_log_changes_nothing(mini):
    folder = mini / "data" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.csv").write_text("a\n", encoding="utf-8")
    read = {"source": {"format": "table", "path": "data/raw", "files": "*.csv"}}
    unread = {"source": read["source"] | {"format": "simulated"}}
    before, simulated = keys_with(mini, **read), keys_with(mini, **unread)
    for name in ("README.md", "log.csv.dvc", ".hidden.csv", "other.parquet"):
        (folder / name).write_text("b", encoding="utf-8")
    assert keys_with(mini, **read) == before and keys_with(mini, **unread) == simulated
    (folder / "more.csv").write_text("c\n", encoding="utf-8")
    assert keys_with(mini, **read) != before and keys_with(mini, **unread) == simulated
