"""How baselines made of a language model are trained: adapters and what is beside them, on SFT's sequences and loss.

The loop is that of stages/training/loop.py, with SFT's rate; more than an adapter may train, and a step may differ from
the one before.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from stages.baselines.sequential.training import mean_reciprocal_rank
from stages.common.console import track
from stages.common.draws import stream
from stages.common.errors import UserError
from stages.model.likelihood import score
from stages.prompts.layout import TokenSequence
from stages.training import loop, sequences
from stages.training.loop import Validations, warmup_cosine
from stages.training.sequences import IGNORED, MICRO_BATCH, collate

_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Plan:
    """How one stage of training goes, by AdamW with the rate of `warmup_cosine`.

    Attributes:
        batch_size: sequences an optimizer step.
        validations: of the loss, an epoch; there is one before the first step too.
        patience: validations without improvement after which training stops.
    """

    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    warmup: float
    least_rate: float
    validations: int
    patience: int

    @classmethod
    def of(cls, settings: Mapping[str, Any], patience: int, prefix: str = "") -> "Plan":
        """From a baseline's settings, of which those of a stage of its own begin with `prefix`."""
        names = (name for name in cls.__dataclass_fields__ if name != "patience")
        return cls(**{name: settings.get(prefix + name, settings.get(name)) for name in names}, patience=patience)


def adapted(
    base: PreTrainedModel, modules: str | Sequence[str], rank: int, alpha: float, dropout: float, seed: int
) -> PeftModel:
    """`base` with a fresh LoRA adapter, which changes nothing yet; `base` is changed in place until `unload` is called.

    Raises:
        UserError: the model has no such modules.
    """
    torch.manual_seed(seed)
    targets = modules if isinstance(modules, str) else list(modules)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    try:
        return get_peft_model(base, config).to(base.device)
    except ValueError as error:
        raise UserError(f"model.name: {base.config.model_type}: no place for this adapter: {error}") from None


def lora_weights(model: PeftModel) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if "lora_" in name}


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """While it lasts, `model` is the plain one that `load_merged` loads, for scoring; afterwards as it was, to the bit.

    Merged in float32 and rounded once, and with no adapter beside the weights: an adapter costs time at every layer,
    and beside bf16 weights it is rounded there too. A model without adapters stays as it is.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    kept = {name: layer.get_base_layer().weight.detach().clone() for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            with torch.no_grad():
                base = layer.get_base_layer()
                base.weight.copy_(base.weight.float() + layer.get_delta_weight("default").float())
            model.set_submodule(name, base)
        yield
    finally:
        for name, layer in layers.items():
            with torch.no_grad():
                layer.get_base_layer().weight.copy_(kept[name])
            model.set_submodule(name, layer)


def train(
    title: str, model: PeftModel, weights: Mapping[str, nn.Parameter], samples: Dataset, valid: Dataset, plan: Plan,
    seed: int, before_step: Callable[[int, int], None] = lambda step, steps: None,
    before_validation: Callable[[], None] = lambda: None,
) -> Validations:
    """Train `weights` and nothing else; they end as at the best validation, the one before the first step included.

    Args:
        weights: by name; of the model or beside it.
        samples, valid: as `sequences.labelled` makes them.
        before_step: called with the number of an optimizer step, 0 the first, and of how many.
    """
    for weight in model.parameters():
        weight.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    orders = [stream(seed, "language batches", epoch).permutation(len(samples)).tolist()
              for epoch in range(plan.epochs)]
    batches = list(enumerate(order[start : start + plan.batch_size] for order in orders
                             for start in range(0, len(order), plan.batch_size)))
    steps = len(batches)
    every = max(1, math.ceil(steps / plan.epochs / plan.validations))
    found = Validations(plan.patience)
    torch.manual_seed(seed)

    def losses(batch: tuple[int, list[int]]) -> Iterator[torch.Tensor]:
        """By micro-batches of like length."""
        before_step(batch[0], steps)
        model.train()
        examples = sorted((samples[i] for i in batch[1]), key=lambda example: example["length"])
        tokens = sum(sum(label != IGNORED for label in example["labels"]) for example in examples)
        for start in range(0, len(examples), MICRO_BATCH):
            yield summed_loss(model, examples[start : start + MICRO_BATCH])[0] / tokens

    def validate() -> float:
        before_validation()
        return mean_loss(model, valid)

    with track(title, steps) as progress:
        loop.train(
            (batches[start : start + every] for start in range(0, steps, every)), losses, weights.values(),
            torch.optim.AdamW(weights.values(), lr=plan.learning_rate, weight_decay=plan.weight_decay),
            lambda step: warmup_cosine(step, steps, plan.warmup, plan.least_rate), _LARGEST_GRADIENT, validate, found,
            lambda: weights, validate_first=True,
            after_step=lambda loss: progress.advance(1, f"loss {float(loss):.3f}, validation {found.best:.3f}"),
        )
    return found


@torch.no_grad()
def mean_loss(model: PeftModel, samples: Dataset) -> float:
    """Mean cross-entropy of all labelled tokens."""
    model.eval()
    total, tokens = 0.0, 0
    with without_dropout(model):
        for start in range(0, len(samples), MICRO_BATCH):
            loss, count = summed_loss(model, [samples[i] for i in range(start, min(start + MICRO_BATCH, len(samples)))])
            total, tokens = total + float(loss), tokens + count
    return total / tokens


def summed_loss(model: PeftModel, examples: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, int]:
    """The loss summed over the labelled tokens of a few samples, read at once; and how many these are."""
    return sequences.summed_loss(model, {name: value.to(model.device) for name, value in collate(examples).items()})


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """While nothing trains, adapters have no dropout at all: the fast reader does not know it even where it is 0."""
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    kept = [dict(layer.lora_dropout) for layer in layers]
    for layer in layers:
        layer.lora_dropout.update({name: nn.Identity() for name in layer.lora_dropout})
    try:
        yield
    finally:
        for layer, dropouts in zip(layers, kept, strict=True):
            layer.lora_dropout.update(dropouts)


def reciprocal_rank(
    model: PeftModel, logs: Sequence[TokenSequence], answers: Sequence[Sequence[int]], most: int, title: str,
    visible: Callable[[list[int]], list[int]] = lambda prompt: prompt,
) -> float:
    """Mean reciprocal rank of the first `most` targets of `logs` among the answers."""
    targets = [(visible(each.input_ids[:start]), behavior) for each in logs
               for (start, _), behavior in zip(each.spans, each.behaviors, strict=True) if behavior < len(answers)]
    prompts, behaviors = map(list, zip(*targets[:most], strict=True))
    with without_dropout(model):
        log_p = score(model, prompts, answers, title).log_p
    return mean_reciprocal_rank(log_p, np.array(behaviors))
