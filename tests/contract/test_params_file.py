"""`params.yaml` has the keys that we read, and an experiment changes the one value it names and no other byte."""

from itertools import pairwise

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from stages.common.params import dotted_keys
from stages.params import Params, read_all
from tests.contract.imports import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")


def leaves(section: dict, prefix: str = "") -> dict[str, object]:
    found = {}
    for name, value in section.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


VALUES = leaves(YAML(typ="safe", pure=True).load(TEXT))


def test_the_file_is_valid_and_complete():
    read_all(ROOT / "params.yaml")
    assert VALUES.keys() == dotted_keys(Params)


def test_every_section_and_key_is_explained():
    lines = TEXT.splitlines()
    unexplained = [line for above, line in pairwise(lines)
                   if line.startswith("  ") and not line.lstrip().startswith("#") and not above.lstrip().startswith("#")
                   and not line.startswith("    ")]
    # dpo's rate and its like say "as in sft" once
    assert {line.split(":")[0].strip() for line in unexplained} <= {"min_learning_rate", "warmup"}


@pytest.mark.parametrize("key", VALUES)
def test_setting_one_value_leaves_every_other_byte(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    apply_overrides(str(path), [f"{key}={'other' if isinstance(VALUES[key], str) else 7}"])
    before, after = TEXT.splitlines(), path.read_text(encoding="utf-8").splitlines()
    assert len(before) == len(after)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1
    assert changed[0][0].split(":")[0] == changed[0][1].split(":")[0]
    assert changed[0][0].split(":")[0].strip() == key.rpartition(".")[2]


@pytest.mark.parametrize("value", ["5e-5", "0.00002", "1e-06"])
def test_small_rates_survive_as_numbers(value, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    apply_overrides(str(path), [f"sft.learning_rate={value}"])
    assert read_all(path).sft.learning_rate == float(value)
