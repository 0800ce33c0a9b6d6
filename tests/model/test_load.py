import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from stages.common.errors import UserError
from stages.model.settings import Lora
from stages.model.load import (
    compute_dtype, load_adapter, load_base, load_merged, load_tokenizer, new_adapter, save_adapter,
)
from stages.model.resolve import read_manifest
from tests.small_log import sft_adapter

IDS = torch.tensor([[5, 9, 30, 7, 41, 5]])


@torch.inference_mode()
def says(model):
    return model.eval()(IDS).logits.float()


def test_a_new_adapter_changes_nothing_yet_and_covers_all_linear_layers(tiny_base):
    model = new_adapter(tiny_base, Lora(rank=4, alpha=8, dropout=0), 0)
    assert torch.equal(says(model), says(load_base(tiny_base)))
    trained = {name.split(".")[-4] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all("lora_" in name for name, weight in model.named_parameters() if weight.requires_grad)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 8, 0)


def test_a_new_adapter_follows_its_seed_alone(tiny_base):
    def start(seed):
        model = new_adapter(tiny_base, Lora(rank=4, alpha=8, dropout=0), seed)
        return torch.cat([weight.flatten() for name, weight in model.named_parameters() if "lora_A" in name])

    one = start(0)
    torch.rand(3)
    assert torch.equal(one, start(0)) and not torch.equal(one, start(1))


def test_a_saved_adapter_says_the_same_on_the_base_model_by_peft_alone(tiny_base, tiny_model, tuned):
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    untuned = says(base)
    model = PeftModel.from_pretrained(base, str(tuned))
    assert torch.allclose(says(model), says(load_adapter(tuned)), atol=1e-6)
    assert (says(model) - untuned).abs().max() > 0.1


def test_merging_changes_nothing_in_float32(tuned):
    merged = load_merged(tuned)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert torch.allclose(says(merged), says(load_adapter(tuned)), atol=1e-4)


def test_merged_weights_are_rounded_once(tuned):
    exact, rounded = load_merged(tuned), load_merged(tuned, torch.bfloat16)
    for one, other in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert other.dtype == torch.bfloat16 and torch.equal(one.bfloat16(), other)


def test_a_folder_without_an_adapter_is_its_base(tiny_base):
    assert torch.equal(says(load_merged(tiny_base)), says(load_base(tiny_base)))


def test_only_the_adapter_itself_can_be_trained_on(tuned):
    model = load_adapter(tuned)
    assert {name.split(".")[-3] for name, w in model.named_parameters() if w.requires_grad} == {"lora_A", "lora_B"}


def test_a_saved_folder_holds_the_adapter_default_and_its_bases_manifest_only(tiny_base, tmp_path):
    model = new_adapter(tiny_base, Lora(rank=4, alpha=8, dropout=0), 0)
    model.add_adapter("ref", model.peft_config["default"])
    save_adapter(model, read_manifest(tiny_base), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "SHA256SUMS", "adapter_config.json", "adapter_model.safetensors", "base.json"
    ]
    assert not any("ref" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    assert read_manifest(tmp_path) == read_manifest(tiny_base)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == read_manifest(tiny_base).name


def test_a_tokenizer_without_padding_pads_with_its_end(tiny_model, tmp_path):
    from stages.model.resolve import resolve, write_manifest

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    write_manifest(resolve(str(folder), ""), tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None


def test_the_dtype_can_be_chosen_and_a_wrong_one_is_refused(monkeypatch, tiny_base):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "bfloat16")
    assert compute_dtype() == torch.bfloat16 == load_base(tiny_base).dtype
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float16")
    with pytest.raises(UserError, match="BEHAVIORLM_DTYPE: 'float16': float32 or bfloat16"):
        compute_dtype()
    monkeypatch.delenv("BEHAVIORLM_DTYPE")
    assert compute_dtype() in (torch.bfloat16, torch.float32)


def test_an_adapter_is_saved_in_the_same_bytes_by_every_run(tiny_base, tmp_path):
    adapter = sft_adapter(tiny_base, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    assert len(config["target_modules"]) > 1
    assert config["target_modules"] == sorted(config["target_modules"])
