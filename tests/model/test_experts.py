"""A mixture of experts: what of it is adapted, said, and written alike in every process."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM

from stages.common.errors import UserError
from stages.model.load import load_merged, new_adapter
from stages.model.resolve import resolve, write_manifest
from stages.model.settings import Lora
from tests.contract.imports import ROOT

SAVE = """
import sys
from pathlib import Path
from stages.model.load import new_adapter, save_adapter
from stages.model.resolve import read_manifest
from stages.model.settings import Lora
base, out = map(Path, sys.argv[1:])
out.mkdir()
save_adapter(new_adapter(base, Lora(rank=2, alpha=4, dropout=0), 0), read_manifest(base), out)
"""


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    """A folder as `models/base`, of a random model with four experts."""
    folder = tmp_path_factory.mktemp("experts")
    shutil.copytree(tiny_model, folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    torch.manual_seed(0)
    MixtralForCausalLM(MixtralConfig(
        vocab_size=640, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_local_experts=4,
        num_attention_heads=2, num_key_value_heads=1, num_experts_per_tok=2,
    )).save_pretrained(folder / "model")
    (folder / "base").mkdir()
    write_manifest(resolve(str(folder / "model"), ""), folder / "base")
    return folder / "base"


def test_experts_and_routers_are_adapted_and_that_is_said(base, capsys):
    model = new_adapter(base, Lora(rank=2, alpha=4, dropout=0), 0)
    said = " ".join(capsys.readouterr().err.split())
    assert "parts of experts and routers: down_proj, gate.weight, gate_up_proj" in said
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert any("experts" in name for name in trained) and any("mlp.gate." in name for name in trained)


def test_dropout_is_refused_with_a_word(base):
    with pytest.raises(UserError, match=r"lora.dropout: 0.1: PEFT adapts the experts of .* set it to 0"):
        new_adapter(base, Lora(rank=2, alpha=4, dropout=0.1), 0)


def test_every_process_writes_the_same_bytes(base, tmp_path):
    """PEFT 0.21.2 holds the names of adapted parameters as a set, whose order follows the process's hash seed."""
    for seed in "123":
        subprocess.run([sys.executable, "-c", SAVE, base, tmp_path / seed], cwd=ROOT, check=True, capture_output=True,
                       env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)})
    first, *others = (tmp_path / seed for seed in "123")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert all((other / name).read_bytes() == (first / name).read_bytes() for other in others)
    assert load_merged(first).config.num_local_experts == 4
