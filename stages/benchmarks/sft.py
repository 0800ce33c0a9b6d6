"""Labelled targets a second in SFT: ours against TRL's SFTTrainer on one window a sample.

Both train the same adapter on targets of the same stretches of the same log, in the same dtype, at the same rate;
conversations, looks at validation data and checkpoints are left out on both sides. Theirs gets token ids and a
completion mask, hence the same tokens as our layout `window`, and the better of its packing on and off, each with the
best batch of a trial, eight windows an optimizer step. Its activation checkpointing is off: it costs time, and memory
is not short.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset
from transformers import Trainer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from stages.benchmarks import flops
from stages.benchmarks.data import Material, labels_among, stretches
from stages.benchmarks.machine import peak
from stages.benchmarks.sizes import Sizes
from stages.benchmarks.timing import Comparison, Row, alternate
from stages.benchmarks.training import NO_LOOKS, Clock, fastest, listening, their_arguments, trained
from stages.common.console import console
from stages.model.likelihood import shared_prefix
from stages.model.load import load_base, new_adapter
from stages.prompts.layouts import table
from stages.training.sequences import IGNORED, MICRO_BATCH, labelled
from stages.training.sft_trainer import SequenceTrainer
from stages.training.trainer import arguments, steps_per_epoch

PACKED = {False: "packing off", True: "packing on"}
# Tokens of a packed row, its default: about two windows fit.
_PACK = 1024
# Samples an optimizer step of theirs: the paper's eight windows.
_STEP = {False: 8, True: 4}


@dataclass(frozen=True)
class Choice:
    """The settings of theirs that were fastest in a trial: whether it packs, and with which batch."""

    packing: bool
    batch: int
    rate: float


def compare(
    material: Material, sizes: Sizes, folder: Path, ours_only: bool = False
) -> tuple[Comparison, Choice | None]:
    """Targets a second of both sides, and the share of the peak that ours uses; and theirs' better settings."""
    rows = stretches(material, sizes.sft_targets, material.params.seed)
    sequences = our_sequences(material, rows)
    chosen = their_choice(material, rows, sizes.sft_windows)
    console.print("SFT: warming up")
    our_rate(material, sequences[: material.params.sft.batch_size], folder)
    sides = {"peak": lambda _: peak(), "ours": lambda _: our_rate(material, sequences, folder)}
    batches, details = {}, {}
    if not ours_only:
        batches, details["trials"] = trials(material, chosen, sizes, folder)
    for packing, batch in batches.items():
        sides[PACKED[packing]] = lambda _, p=packing, b=batch: their_rate(material, chosen, p, b, folder)
    results = alternate(sides, sizes.rounds)
    theirs = [max(values) for values in zip(*(results[PACKED[p]] for p in batches), strict=True)] if batches else []
    best = max(batches, key=lambda p: np.median(results[PACKED[p]]), default=None)
    choice = None if best is None else Choice(best, batches[best], float(np.median(results[PACKED[best]])))
    needed, targets = needed_flops(material, sequences), count_targets(material, sequences)
    details |= {
        "our_targets": targets, "our_sequences": len(sequences),
        "our_tokens": int(sequences["input_ids"].list.len().sum()),
        "their_windows": len(chosen), "their_tokens_a_window": float(np.mean([len(w) for w in chosen["input_ids"]])),
        "flops_a_target": {"linear": needed.linear / targets, "total": needed.total / targets},
        "peak_flops_a_second": results["peak"], "their_rates": {PACKED[p]: results[PACKED[p]] for p in batches},
    }
    speed = Row(
        "SFT", "TRL SFTTrainer, the better of packing on and off", "labelled targets/s", results["ours"], theirs,
        target=25, note=f"theirs: {PACKED[best]}, batch {batches[best]}" if choice else "",
    )
    return Comparison([speed, *peak_rows("SFT", needed, targets, results)], details), choice


def peak_rows(work: str, needed: flops.Flops, units: int, results: dict[str, list[float]]) -> list[Row]:
    """Shares of the peak, each round's of its own; `results` holds `peak`, and `ours` in units a second."""
    def shares(operations: float) -> list[float]:
        return [rate * operations / units / top for rate, top in zip(results["ours"], results["peak"], strict=True)]

    against = "a measured product of 4096² matrices, same dtype"
    return [
        Row(f"FLOPs used, {work}", against, "share, linear layers only", shares(needed.linear), rule="at_least"),
        Row(f"FLOPs used, {work}", against, "share, with attention and head", shares(needed.total), rule="at_least",
            target=0.5),
    ]


def our_sequences(material: Material, rows: np.ndarray) -> pl.DataFrame:
    """Streams that hold each of `rows` as a target once."""
    return table(material.stream.sequences(rows, len(rows), np.random.default_rng(material.params.seed)))


def count_targets(material: Material, sequences: pl.DataFrame) -> int:
    """Targets with a label on them."""
    return int(sequences["target_behavior"].explode().is_in(material.trained).sum())


def their_choice(material: Material, rows: np.ndarray, count: int) -> Dataset:
    """A seeded choice among the labelled ones of `rows`, one prompt and completion each."""
    labels = labels_among(material, rows)
    chosen = np.random.default_rng([material.params.seed, 12]).permutation(labels)[:count]
    return their_windows(material, chosen)


def their_windows(material: Material, rows: np.ndarray) -> Dataset:
    """Token ids and completion masks of windows in the paper's layout."""
    ids, masks = [], []
    for row in rows.tolist():
        prompt, answer = material.window.prompt(row), material.window.answers[material.log.behavior[row]]
        ids.append(prompt + answer)
        masks.append([0] * len(prompt) + [1] * len(answer))
    return Dataset.from_dict({"input_ids": ids, "completion_mask": masks})


def our_trainer(
    material: Material, sequences: pl.DataFrame, folder: Path, callbacks: list[TrainerCallback], **changes: Any
) -> SequenceTrainer:
    """The trainer of stage `sft`, without looks; `changes` are of its configuration."""
    params, samples = material.params, labelled(sequences, material.trained)
    schedule = params.sft.model_copy(update={"epochs": 1})
    settings = arguments(schedule, len(samples), folder / "ours", params.seed, MICRO_BATCH) | NO_LOOKS | changes
    return SequenceTrainer(
        model=new_adapter(material.model, params.lora, params.seed),
        args=SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True}), train_dataset=samples,
        processing_class=material.tokenizer, callbacks=callbacks, schedule=schedule,
    )


def their_trainer(
    material: Material, windows: Dataset, packing: bool, batch: int, folder: Path, callbacks: list[TrainerCallback],
    **changes: Any,
) -> SFTTrainer:
    """TRL's own trainer on the same adapter."""
    params = material.params
    settings = their_arguments(str(folder / "theirs"), params.seed, params.sft.learning_rate, batch, _STEP[packing])
    settings |= {"num_train_epochs": 1, "completion_only_loss": True, "packing": packing, "max_length": _PACK,
                 "activation_checkpointing": False}
    if not packing:
        settings["train_sampling_strategy"] = "group_by_length"
    return SFTTrainer(
        model=new_adapter(material.model, params.lora, params.seed), args=SFTConfig(**settings | changes),
        train_dataset=windows, processing_class=material.tokenizer, callbacks=callbacks,
    )


def our_rate(material: Material, sequences: pl.DataFrame, folder: Path) -> float:
    """Labelled targets a second, over one pass."""
    clock = Clock()
    trained(our_trainer(material, sequences, folder, [clock]))
    return count_targets(material, sequences) / clock.seconds


def their_rate(material: Material, windows: Dataset, packing: bool, batch: int, folder: Path) -> float:
    """Windows a second, over one pass; each carries one labelled target."""
    clock = Clock()
    trained(their_trainer(material, windows, packing, batch, folder, [clock]))
    return len(windows) / clock.seconds


def trials(
    material: Material, windows: Dataset, sizes: Sizes, folder: Path
) -> tuple[dict[bool, int], dict[str, Any]]:
    """The faster batch with and without packing, where theirs runs at all, and what was tried; it warms up as well."""
    batches: dict[bool, int] = {}
    seen: dict[str, Any] = {}
    few = windows.select(range(min(len(windows), max(8, *sizes.batches))))
    # packing puts about two windows into a row
    for packing, sizes_tried in ((False, sizes.batches), (True, {max(1, size // 2): None for size in sizes.batches})):
        with listening("trl", "transformers") as heard:
            fastest([1], lambda size, p=packing: their_rate(material, windows.select([0]), p, size, folder), "warm-up")
            batch, rates = fastest(
                sizes_tried, lambda size, p=packing: their_rate(material, few, p, size, folder),
                f"TRL, {PACKED[packing]}",
            )
        seen[PACKED[packing]] = {"rates": rates, "warnings": heard}
        if batch is not None:
            batches[packing] = batch
    return batches, seen


def needed_flops(material: Material, sequences: pl.DataFrame) -> flops.Flops:
    """Operations of one pass of ours over `sequences`."""
    samples = labelled(sequences, material.trained)
    read = [max(at for at, label in enumerate(labels) if label != IGNORED) for labels in samples["labels"]]
    return flops.training(
        flops.Shape.of(load_base(material.model), material.params.lora.rank),
        prefix=shared_prefix(samples["input_ids"]), steps=steps_per_epoch(len(samples), material.params.sft.batch_size),
        read=read, labelled=sum(label != IGNORED for labels in samples["labels"] for label in labels),
    )
