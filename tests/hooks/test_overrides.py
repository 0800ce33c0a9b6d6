"""The symbols and recipes of `-S`, in lists of overrides and through the real command."""

import shutil
import subprocess
from pathlib import Path

import pytest
from dvc.exceptions import DvcException, InvalidArgumentError
from ruamel.yaml import YAML

from stages.common.params import dotted_keys
from stages.hooks.overrides import RECIPES, SYMBOLS, check, expand, translate
from stages.params import Params
from tests.contract.imports import ROOT
from tests.hooks.installed import dvc, installed

SECTIONS = set(Params.model_fields)


@pytest.mark.parametrize("override, expected", [
    ("ε=0.1", "sft.epsilon=0.1"),
    ("ϵ=0.1", "sft.epsilon=0.1"),
    ("λ=0.3,0.7", "selection.lambda=0.3,0.7"),
    ("β=range(1,4)", "dpo.beta=range(1,4)"),
    ("ϐ=1", "dpo.beta=1"),
    ("F=10", "selection.per_behavior=10"),
    ("L=5", "windowing.history=5"),
    ("+β=1", "+dpo.beta=1"),
    ("~β", "~dpo.beta"),
    ("sft.epsilon=0.1", "sft.epsilon=0.1"),
    ("source.path='/F=1/ε=2'", "source.path='/F=1/ε=2'"),
    ("γ=1", "γ=1"),
    ("Fold=1", "Fold=1"),
    ("", ""),
])
def test_the_key_takes_the_place_of_the_symbol_and_nothing_else_changes(override, expected):
    assert translate(override, SECTIONS) == expected


@pytest.mark.parametrize("known", [set(), {"model"}, SECTIONS | set(SYMBOLS)])
def test_a_file_of_another_project_keeps_its_own_keys(known):
    for symbol in SYMBOLS:
        assert translate(f"{symbol}=1", known) == f"{symbol}=1"


def test_every_symbol_stands_for_a_key():
    assert set(SYMBOLS.values()) <= dotted_keys(Params)


@pytest.fixture
def beside(tmp_path):
    """A params file with two recipes beside it."""
    (tmp_path / RECIPES).parent.mkdir(parents=True)
    (tmp_path / RECIPES).write_text(
        "one: {sft.labels: all, sft.epsilon: 0.2, dpo.nll_weight: 0}\ntwo: {sft.labels: 'a, b', sft.on: true}\n",
        encoding="utf-8")
    return str(tmp_path / "params.yaml")


def test_the_values_of_a_recipe_stand_in_front_of_what_is_set_beside_it(beside):
    assert expand(["sft.epsilon=0.3", "recipe=one", "ε=0.4"], beside, SECTIONS) == [
        'sft.labels="all"', "sft.epsilon=0.2", "dpo.nll_weight=0", "sft.epsilon=0.3", "ε=0.4"]
    assert expand([" recipe = two"], beside, SECTIONS) == ['sft.labels="a, b"', "sft.on=true"]


@pytest.mark.parametrize(("overrides", "says"), [
    (["recipe=three"], "-S recipe=three: no such recipe; one of one, two (stages/hooks/recipes.yaml)"),
    (["recipe="], "-S recipe=: no such recipe; one of one, two"),
    (["recipe=one,two"],
     "-S recipe=one,two: a run takes one recipe, one of one, two (stages/hooks/recipes.yaml); queue a run"),
    (["recipe=choice(one,two)"], "takes one recipe"),
    (["recipe=one", "seed=1", "recipe=two"], "takes one recipe"),
])
def test_a_recipe_that_is_not_there_is_refused_with_those_that_are(beside, overrides, says):
    with pytest.raises(InvalidArgumentError) as error:
        expand(overrides, beside, SECTIONS)
    assert says in str(error.value)


def test_recipes_that_are_no_yaml_are_refused_with_the_files_name(beside):
    (Path(beside).parent / RECIPES).write_text("one: {sft.labels: all", encoding="utf-8")
    with pytest.raises(DvcException, match="recipes.yaml"):
        expand(["recipe=one"], beside, SECTIONS)


@pytest.mark.parametrize("override", ["+recipe=one", "~recipe", "recipes=one", "sft.recipe=one", "seed=recipe=one"])
def test_only_the_key_recipe_is_a_recipe(beside, override):
    assert expand([override], beside, SECTIONS) == [override]


@pytest.mark.parametrize(("recipes", "known"), [
    (None, SECTIONS),
    ("one: {sft.labels: all}", SECTIONS | {"recipe"}),
    ("soup: {salt: 1, 2: 3}", SECTIONS),
    ("[soup]", SECTIONS),
    ("soup: salt", SECTIONS),
    ("", SECTIONS),
    ("one: {sft.labels: all}", set()),
])
def test_recipes_of_another_project_are_left_alone(tmp_path, recipes, known):
    (tmp_path / RECIPES).parent.mkdir(parents=True)
    if recipes is not None:
        (tmp_path / RECIPES).write_text(recipes, encoding="utf-8")
    assert expand(["recipe=one"], str(tmp_path / "params.yaml"), known) == ["recipe=one"]


@pytest.fixture
def ours(beside, monkeypatch):
    """A params file of a repository with recipes, which is the working folder, as DVC sees it."""
    monkeypatch.chdir(Path(beside).parent)
    Path("params.yaml").write_text("seed: 0\nsft: {epochs: 1, rates: [1, 2]}\nstudy: {a: {b: null}}\n", "utf-8")
    return "params.yaml"


@pytest.mark.parametrize(("override", "says"), [
    ("sft.epoch=1", "-S sft.epoch=1: params.yaml has no sft.epoch; did you mean sft.epochs?"),
    ("+sft.epoch=1", "did you mean sft.epochs?"),
    ("++sft.epoch=1", "did you mean sft.epochs?"),
    ("~sft.epoch", "did you mean sft.epochs?"),
    ("sfft.epochs=1,2", "-S sfft.epochs=1,2: params.yaml has no sfft.epochs; did you mean sft.epochs?"),
    ("sed=1", "did you mean seed?"),
    ("sft.epochs.first=1", "params.yaml has no sft.epochs.first; did you mean sft.epochs?"),
    ("learning-rate=1", "params.yaml has no learning-rate; the file says which there are"),
])
def test_a_key_that_is_not_there_is_refused_with_the_one_that_was_meant(ours, override, says):
    with pytest.raises(InvalidArgumentError) as error:
        check(["seed=1", override], ours)
    assert says in str(error.value)


@pytest.mark.parametrize("override", [
    "sft.epochs=1", "+sft.epochs=1", "~sft.epochs", "sft={epochs: 1}", "study.a.b=1", "sft.rates.0=1", "a@b=1", "", "=",
])
def test_keys_that_are_there_and_what_only_hydra_knows_pass(ours, override):
    assert check([override], ours) == [override]


def test_files_of_another_project_are_not_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("seed: 0\n", "utf-8")
    assert check(["anything=1"], "params.yaml") == ["anything=1"]
    assert check(["anything=1"], "none.yaml") == ["anything=1"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A repository with our params and one stage, which copies them."""
    folder = tmp_path_factory.mktemp("overrides")
    shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "config.local"))
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / RECIPES).parent.mkdir(parents=True)
    shutil.copy(ROOT / RECIPES, folder / RECIPES)
    (folder / "other.yaml").write_text("F: 1\nselection:\n  per_behavior: 2\n", encoding="utf-8")
    (folder / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp params.yaml seen.yaml\n    params: [sft, selection, dpo, windowing, evaluate]\n"
        "    outs: [seen.yaml]\n", encoding="utf-8")
    for arguments in ("init -q", "config user.name t", "config user.email t@example.org", "add -A", "commit -qm start"):
        subprocess.run(["git", *arguments.split()], cwd=folder, check=True)
    return folder


def seen(folder: Path) -> dict:
    """The params that the stage has seen."""
    return YAML(typ="safe", pure=True).load((folder / "seen.yaml").read_text(encoding="utf-8"))


@installed
def test_symbols_reach_the_stage_through_dvc(project):
    dvc(project, "exp", "run", "-S", "ε=0.15", "-S", "params.yaml:λ=0.75", "-S", "β=0.35", "-S", "F=3", "-S", "L=7")
    found = seen(project)
    assert (found["sft"]["epsilon"], found["selection"]["lambda"], found["dpo"]["beta"]) == (0.15, 0.75, 0.35)
    assert (found["selection"]["per_behavior"], found["windowing"]["history"]) == (3, 7)


@installed
def test_a_recipe_reaches_the_stage_through_dvc_and_what_is_set_beside_it_wins(project):
    dvc(project, "exp", "run", "-S", "ε=0.25", "-S", "recipe=paper", "-S", "dpo.beta=0.45")
    found = seen(project)
    assert (found["sft"]["labels"], found["sft"]["epsilon"], found["dpo"]["beta"]) == ("anchors", 0.25, 0.45)
    assert (found["dpo"]["nll_weight"], found["evaluate"]["tau"]) == (0, 0)
    dvc(project, "exp", "run", "-S", "recipe=balanced")
    found = seen(project)
    assert (found["sft"]["labels"], found["sft"]["logit_adjustment"], found["dpo"]["nll_weight"]) == ("all", 1, 1)
    assert found["evaluate"]["tau"] == "validation"


@installed
@pytest.mark.parametrize(("recipe", "says"), [
    ("papers",
     "ERROR: -S recipe=papers: no such recipe; one of paper, progressive, all, balanced (stages/hooks/recipes.yaml)"),
    ("paper,all", "ERROR: -S recipe=paper,all: a run takes one recipe"),
])
def test_dvc_reports_a_wrong_recipe_as_its_own_errors(project, recipe, says):
    output = dvc(project, "exp", "run", "--queue", "-S", f"recipe={recipe}", refused=True)
    assert says in output and "Traceback" not in output


@installed
@pytest.mark.parametrize("how", [(), ("--queue",)])
def test_dvc_reports_a_wrong_key_by_the_one_that_was_meant(project, how):
    output = dvc(project, "exp", "run", *how, "-S", "sft.epoch=1", refused=True)
    assert "ERROR: -S sft.epoch=1: params.yaml has no sft.epoch; did you mean sft.epochs?" in output
    assert "+sft.epoch" not in output and "Traceback" not in output


@installed
def test_a_sweep_over_a_symbol_is_queued(project):
    output = dvc(project, "exp", "run", "--queue", "-S", "ϵ=0.05,0.1", "-S", "sft.warmup=0.2")
    assert "sft.epsilon=0.05" in output and "sft.epsilon=0.1" in output
    assert dvc(project, "queue", "status").count("Queued") == 2


@installed
def test_a_file_with_such_a_key_keeps_it(project):
    dvc(project, "exp", "run", "-S", "other.yaml:F=9")
    assert (project / "other.yaml").read_text(encoding="utf-8").startswith("F: 9\nselection:\n  per_behavior: 2\n")
