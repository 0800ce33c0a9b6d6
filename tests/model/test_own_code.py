"""A model that brings Python code of its own: it is not run, nor is anybody asked whether to run it."""

import ast
import re
import shutil
from pathlib import Path

import pytest

from stages.common.errors import UserError
from stages.common.files import read_json, write_json
from stages.model import resolve as module
from stages.model.load import load_base, load_tokenizer
from stages.model.resolve import resolve, write_manifest

OWN_CODE = "from pathlib import Path\n\nPath(__file__).with_name('ran').touch()\n"
OWN = {"config.json": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
       "tokenizer_config.json": {"AutoTokenizer": ["own.Tokenizer", None]}}


@pytest.fixture
def folder(tiny_model, tmp_path, monkeypatch):
    def ask(*args):
        raise AssertionError("it asks")

    monkeypatch.setattr("builtins.input", ask)
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def bring_code(folder, file, kind):
    """`kind` is what the model (or its tokenizer) calls itself."""
    settings = read_json(folder / file) | {"auto_map": OWN[file]}
    settings["model_type" if file == "config.json" else "tokenizer_class"] = kind
    write_json(folder / file, settings)
    (folder / "own.py").write_text(OWN_CODE)


def test_a_model_of_its_own_code_is_refused_and_asks_nothing(folder, tmp_path):
    write_manifest(resolve(str(folder), ""), tmp_path)
    bring_code(folder, "config.json", "ours")
    says = "model.name: .*model: is loaded by Python code of its own .*never run"
    with pytest.raises(UserError, match=says):
        resolve(str(folder), "")
    for load in (load_tokenizer, load_base):  # the code may have come since
        with pytest.raises(UserError, match=says):
            load(tmp_path)
    assert not (folder / "ran").exists()


def test_of_a_known_type_the_librarys_own_code_is_taken(folder, tmp_path):
    bring_code(folder, "config.json", "llama")
    bring_code(folder, "tokenizer_config.json", "PreTrainedTokenizerFast")
    write_manifest(resolve(str(folder), ""), tmp_path)
    assert type(load_base(tmp_path)).__module__.startswith("transformers.")
    assert type(load_tokenizer(tmp_path)).__module__.startswith("transformers.")
    assert not (folder / "ran").exists()


def test_all_that_loads_a_model_says_that_foreign_code_is_not_trusted():
    """`trust_remote_code` is None by default: transformers then asks."""
    loads, found = re.compile(r"Auto(?:Config|Model\w*|Tokenizer)\.from_(?:pretrained|config)"), 0
    for file in Path(module.__file__).parents[1].rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and loads.fullmatch(ast.unparse(call.func)):
                found += 1
                values = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert values.get("trust_remote_code") == "False", f"{file}: line {call.lineno}"
    assert found >= 7
