"""Load a tokenizer, a base model, an adapter: safetensors only, no remote code, the fastest exact-enough dtype."""

import os
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from stages.common.console import console
from stages.common.device import device
from stages.common.errors import UserError
from stages.common.files import atomic_folder
from stages.common.stage import Kind
from stages.model.resolve import Manifest, read_manifest, weights_folder, write_manifest
from stages.model.settings import Lora

# Our console shows what a person needs; the libraries' own bars and notices of future changes would bury it.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft)\.")


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder of ours; one without a padding token pads with its end-of-text token."""
    tokenizer = AutoTokenizer.from_pretrained(weights_folder(read_manifest(folder)), trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The base model of a model folder of ours, without adapters, on the best device there is."""
    return _load(read_manifest(folder), dtype or compute_dtype()).to(device())


def load_merged(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Base and adapter (if the folder has one) as one plain model, for scoring.

    Merged in float32 and rounded once; an adapter beside bf16 weights would be rounded at every layer.
    """
    if not (Path(folder) / "adapter_config.json").exists():
        return load_base(folder, dtype)
    model = PeftModel.from_pretrained(_load(read_manifest(folder), torch.float32), str(folder))
    return model.merge_and_unload().to(device(), dtype or compute_dtype())


def load_adapter(folder: Path, dtype: torch.dtype | None = None) -> PeftModel:
    """Base and adapter, the adapter ready to be trained on."""
    model = PeftModel.from_pretrained(_load(read_manifest(folder), dtype or compute_dtype()), str(folder),
                                      is_trainable=True)
    # PEFT compares vocabularies at every save: with the files that were loaded, not by asking a hub for the base's name
    model.peft_config["default"].base_model_name_or_path = model.get_base_model().name_or_path
    return model.to(device())


def new_adapter(folder: Path, lora: Lora, seed: int, dtype: torch.dtype | None = None) -> PeftModel:
    """Base and a fresh LoRA adapter on all linear layers, initialised by `seed`.

    In a mixture of experts PEFT counts the experts' weights and the routers among them, which is said.

    Raises:
        UserError: `lora.dropout` is above 0 and the model has experts, which PEFT adapts without it only.
    """
    torch.manual_seed(seed)
    manifest = read_manifest(folder)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    try:
        model = get_peft_model(_load(manifest, dtype or compute_dtype()), config)
    except ValueError as error:
        if not lora.dropout:
            raise
        raise UserError(f"lora.dropout: {lora.dropout}: PEFT adapts the experts of {manifest.name} without dropout "
                        f"only ({error}); set it to 0") from None
    if experts := model.peft_config["default"].target_parameters:
        console.print(f"adapted too, as parts of experts and routers: {', '.join(sorted(experts))}")
    return model.to(device())


def save_adapter(model: PeftModel, manifest: Manifest, folder: Path) -> None:
    """Write the adapter `default`, and no other, as PEFT reads it, with the manifest of its base beside it."""
    config = model.peft_config["default"]
    config.base_model_name_or_path, config.revision = manifest.name, manifest.revision or None
    # a set's order differs from run to run, and with it the hash
    config.target_modules = sorted(config.target_modules)
    if config.target_parameters:
        config.target_parameters = sorted(config.target_parameters)
    # adapters leave the embeddings alone; without this option PEFT asks a model hub whether they were resized
    model.save_pretrained(
        str(folder), selected_adapters=["default"], safe_serialization=True, save_embedding_layers=False
    )
    (Path(folder) / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    write_manifest(manifest, folder)


def adapter_folder(help: str) -> Kind:
    """An adapter and its base's manifest, as an output of a stage."""

    def write(made: tuple[PeftModel, Manifest], path: Path) -> None:
        with atomic_folder(path) as folder:
            save_adapter(*made, folder)

    return Kind(help, write=write)


def compute_dtype() -> torch.dtype:
    """bf16 where it is fast (a GPU that has it, a CPU with AVX512-BF16 or AMX), else float32.

    `$BEHAVIORLM_DTYPE` (float32, bfloat16) overrides it, for tests and comparisons.
    """
    if chosen := os.environ.get("BEHAVIORLM_DTYPE"):
        if chosen not in ("float32", "bfloat16"):
            raise UserError(f"BEHAVIORLM_DTYPE: {chosen!r}: float32 or bfloat16")
        return getattr(torch, chosen)
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() \
        else torch.float32


def _load(manifest: Manifest, dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(
        weights_folder(manifest), dtype=dtype, attn_implementation="sdpa", use_safetensors=True,
        trust_remote_code=False,  # None, its default, asks on the terminal
    )
