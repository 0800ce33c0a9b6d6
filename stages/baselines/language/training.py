"""One loop for every row made of a language model: optimizer steps, looks at the validation loss, the best look kept.

The steps of SFT in stages/training/sft_trainer.py (the same loss, the same reading of what sequences begin with once, the
rate rising and then falling in a cosine), where more than an adapter trains and a step may differ from the one
before.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from stages.baselines.sequential.ranks import mean_reciprocal_rank
from stages.common.console import track
from stages.common.errors import UserError
from stages.model.fused import TargetLoss
from stages.model.likelihood import score
from stages.model.readers import make_reader
from stages.prompts.layout import TokenSequence
from stages.training.sft_trainer import IGNORED, MICRO_BATCH, labelled_states

_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Plan:
    """How one stage of training goes.

    Attributes:
        learning_rate: peak of the rate.
        weight_decay: of AdamW, of every weight alike.
        batch_size: sequences an optimizer step.
        epochs: passes over the sequences.
        warmup: share of the steps in which the rate rises.
        least_rate: the rate before and after, as a share of its peak.
        validations: of the loss, an epoch; there is one before the first step too.
        patience: looks without improvement after which training stops.
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
        """From a system's settings, of which those of a stage of its own begin with `prefix`."""
        own = {name: settings.get(prefix + name, settings.get(name))
               for name in ("learning_rate", "weight_decay", "batch_size", "epochs", "warmup", "least_rate", "validations")}
        return cls(**own, patience=patience)

    def rate(self, step: int, steps: int) -> float:
        """Share of the peak at optimizer step `step` of `steps`, the first being 0."""
        rising = math.ceil(steps * self.warmup)
        if step < rising:
            return self.least_rate + (1 - self.least_rate) * step / rising
        progress = min(1.0, (step - rising) / max(1, steps - rising))
        return self.least_rate + (1 - self.least_rate) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Course:
    """How training went: the validation loss of each look by step, the best one's, and optimizer steps taken."""

    looks: dict[int, float] = field(default_factory=dict)
    steps: int = 0

    @property
    def best_step(self) -> int:
        """The earliest among equals."""
        return min(self.looks, key=lambda step: (self.looks[step], step))

    @property
    def best(self) -> float:
        return self.looks[self.best_step]


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
    """The adapter's weights by name."""
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
    seed: int,
    before_step: Callable[[int, int], None] = lambda step, steps: None, before_look: Callable[[], None] = lambda: None,
) -> Course:
    """Train `weights` and nothing else; they end as at the best look, the one before the first step included.

    Args:
        title: what the progress bar says.
        model: weights that are not in `weights` get no gradient.
        weights: by name; of the model or beside it.
        samples, valid: as `sft_trainer.labelled` makes them.
        plan: see there.
        seed: of the batches' order and of dropout.
        before_step: called with the number of an optimizer step, 0 the first, and of how many.
        before_look: called before each look.
    """
    for weight in model.parameters():
        weight.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights.values(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    steps = plan.epochs * math.ceil(len(samples) / plan.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: plan.rate(step, steps))
    every = max(1, math.ceil(steps / plan.epochs / plan.validations))
    torch.manual_seed(seed)
    course, kept = Course(), {}

    def look() -> bool:
        """Whether to go on."""
        before_look()
        course.looks[course.steps] = mean_loss(model, valid)
        if course.best_step == course.steps:
            kept.update(copied(weights))
        return sum(step > course.best_step for step in course.looks) < plan.patience

    with track(title, steps) as progress:
        going = look()
        for batch in _batches(len(samples), plan, seed):
            before_step(course.steps, steps)
            model.train()
            loss = _step(model, [samples[i] for i in batch])
            nn.utils.clip_grad_norm_(weights.values(), _LARGEST_GRADIENT)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            course.steps += 1
            progress.advance(1, f"loss {loss:.3f}, validation {course.best:.3f}")
            if course.steps % every == 0 or course.steps == steps:
                going = look()
            if not going:
                break
    restore(weights, kept)
    return course


def copied(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values apart, which training does not change."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in values.items()}


def restore(weights: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]) -> None:
    """Put values back into weights of the same names."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(kept[name])


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
    """Cross-entropy summed over the labelled tokens of a few samples, read at once; and how many these are."""
    size = max(example["length"] for example in examples)
    ids = torch.zeros(len(examples), size, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        ids[row, : example["length"]] = torch.tensor(example["input_ids"])
        labels[row, : example["length"]] = torch.tensor(example["labels"])
    ids, labels = ids.to(model.device), labels.to(model.device)
    hidden, places = labelled_states(make_reader(model), ids, labels)
    head = model.get_output_embeddings()
    targets = labels.flatten()[places]
    return TargetLoss.apply(hidden.to(head.weight.dtype), head.weight, head.bias, targets), len(targets)


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
    model: PeftModel, sequences: Sequence[TokenSequence], answers: Sequence[Sequence[int]], most: int, title: str,
    asked: Callable[[list[int]], list[int]] = lambda prompt: prompt,
) -> float:
    """Mean reciprocal rank of the first `most` targets of `sequences` among the answers.

    Args:
        asked: makes what the model is to read of a prompt.
    """
    targets = [(asked(each.input_ids[:start]), behavior) for each in sequences
               for (start, _), behavior in zip(each.spans, each.behaviors, strict=True) if behavior < len(answers)]
    prompts, behaviors = map(list, zip(*targets[:most], strict=True))
    with without_dropout(model):
        log_p = score(model, prompts, answers, title).log_p
    return mean_reciprocal_rank(log_p, np.array(behaviors))


def _step(model: PeftModel, examples: list[Mapping[str, Any]]) -> float:
    """Gradients of one optimizer step's mean loss, by micro-batches of like length; the loss."""
    examples = sorted(examples, key=lambda example: example["length"])
    tokens = sum(sum(label != IGNORED for label in example["labels"]) for example in examples)
    total = 0.0
    for start in range(0, len(examples), MICRO_BATCH):
        loss, _ = summed_loss(model, examples[start : start + MICRO_BATCH])
        if loss.requires_grad:  # a batch may hold nothing that trains
            (loss / tokens).backward()
        total += float(loss.detach())
    return total / tokens


def _batches(size: int, plan: Plan, seed: int) -> Iterator[list[int]]:
    for epoch in range(plan.epochs):
        order = np.random.default_rng([seed, epoch]).permutation(size).tolist()
        yield from (order[start : start + plan.batch_size] for start in range(0, size, plan.batch_size))
