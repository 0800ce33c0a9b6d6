"""What baselines are tuned over: the shipped settings are valid, and every baseline tries as many of them."""

import importlib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.baselines.fitting.settings import Budget, choices, read_settings
from stages.common.errors import UserError
from tests.contract.imports import ROOT

SHIPPED = ROOT / "stages" / "baselines" / "params.yaml"
BUDGET = "budget: {trials: 1, valid_windows: 1, patience: 1, windows_per_validation: 1}"
SECTIONS = [section for section in YAML(typ="safe", pure=True).load(SHIPPED.read_text("utf-8")) if section != "budget"]


def kind_of(section: str) -> type:
    where = {"names": "language.names", "api": "api.__main__", "sasrec": "sequential.sasrec",
             "long": "fitting.settings"}
    module = importlib.import_module(f"stages.baselines.{where.get(section, f'systems.{section}')}")
    return getattr(module, {"names": "NameSettings", "long": "Long"}.get(section, "Settings"))


@pytest.mark.parametrize("section", SECTIONS)
def test_the_shipped_settings_are_valid_and_their_choices_differ(section):
    budget, values = read_settings(SHIPPED, section, kind_of(section))
    found = choices(values, budget.trials, seed=0)
    assert 1 <= len(found) <= budget.trials
    assert all(found[i] != found[j] for i in range(len(found)) for j in range(i))
    # the first is the default: the first of every key's values
    assert found[0] == {name: value[0] if isinstance(value, list) else value for name, value in values}


def test_other_seeds_draw_other_choices_and_the_same_seed_the_same():
    _, values = read_settings(SHIPPED, "sasrec", kind_of("sasrec"))
    draws = [choices(values, 4, seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert draws[0][0] == draws[2][0]


def test_no_more_choices_than_there_are():
    _, values = read_settings(SHIPPED, "sasrec", kind_of("sasrec"))
    few = values.model_copy(update={name: value[:1] for name, value in values if isinstance(value, list)}
                            | {"dropout": [0.1, 0.2]})
    assert [each["dropout"] for each in choices(few, 10, 0)] == [0.1, 0.2]


@pytest.mark.parametrize(("content", "message"), [
    (f"{BUDGET.replace('trials: 1', 'trials: 0')}\nsasrec: {{}}", "(?s)budget.trials: "),
    (BUDGET, "sasrec: missing"),
    (f"{BUDGET}\nsasrec: {{rate: 1}}", "(?s)sasrec.rate: "),
    (f"{BUDGET}\nsasrec: {{dropout: [0.1, 0.2, 0.10], heads: [1, 2, 2]}}",
     r"(?s)sasrec.dropout: \[0\.1, 0\.2, 0\.1\]: holds 0\.1 more than once; .*sasrec.heads: .* holds 2 more than once"),
    ("budget: [", "not valid YAML"),
    ("- 1", "budget: missing"),
])
def test_what_is_wrong_in_the_file_is_named(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_settings(path, "sasrec", kind_of("sasrec"))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UserError, match="nowhere.yaml: no such file"):
        read_settings(Path("nowhere.yaml"), "sasrec", kind_of("sasrec"))


def test_the_budget_is_one_for_all():
    assert {read_settings(SHIPPED, section, kind_of(section))[0] for section in SECTIONS} == {
        Budget.model_validate(YAML(typ="safe", pure=True).load(SHIPPED.read_text("utf-8"))["budget"])}
