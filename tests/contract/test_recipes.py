"""stages/hooks/recipes.yaml sets keys that there are to values that they may have, and says why."""

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from stages.common.params import dotted_keys
from stages.hooks.overrides import RECIPES, expand
from stages.params import Params, read_all
from tests.contract.imports import ROOT

TEXT = (ROOT / RECIPES).read_text(encoding="utf-8")
ENTRIES = YAML(typ="safe", pure=True).load(TEXT)


def test_the_recipes_are_there_and_each_is_explained():
    assert list(ENTRIES) == ["paper", "progressive", "all", "balanced"]
    lines = TEXT.splitlines()
    assert all(lines[lines.index(f"{name}:") - 1].startswith("# ") for name in ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_recipe_sets_keys_of_params_and_nothing_else(name, tmp_path):
    assert ENTRIES[name].keys() <= dotted_keys(Params)
    params = tmp_path / "params.yaml"
    params.write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    before = read_all(params).model_dump(by_alias=True)
    known = set(before)
    apply_overrides(str(params), expand([f"recipe={name}"], str(ROOT / "params.yaml"), known))
    after = read_all(params).model_dump(by_alias=True)
    for key, value in ENTRIES[name].items():
        section, _, last = key.partition(".")
        assert after[section][last] == value
        before[section][last] = value
    assert after == before
