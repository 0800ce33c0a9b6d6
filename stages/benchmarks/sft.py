"""Labelled targets a second in SFT: ours against TRL's SFTTrainer on one window a sample.

Both train the same adapter on targets of the same stretches of the same log, in the same dtype, at the same rate;
conversations, validation and checkpoints are left out on both sides. The baseline gets token ids and a completion mask,
hence the same tokens as our layout `window`, and the better of its packing on and off, each with the best batch of a
trial, eight windows an optimizer step. Its activation checkpointing is off: it costs time, and memory is not short.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from stages.benchmarks import flops
from stages.benchmarks.data import Inputs
from stages.benchmarks.machine import peak
from stages.benchmarks.timing import Comparison, Row, alternate
from stages.benchmarks.training import NO_VALIDATION, baseline_arguments, fastest, listening, train
from stages.common.console import console
from stages.common.draws import stream
from stages.model.likelihood import shared_prefix
from stages.model.load import load_base, new_adapter
from stages.prompts.layout import table
from stages.training.sequences import IGNORED, MICRO_BATCH, labelled
from stages.training.sft_trainer import SequenceTrainer
from stages.training.trainer import arguments, steps_per_epoch

_PACK = 1024  # tokens of a packed row, its default: about two windows fit
_STEP = {False: 8, True: 4}  # samples an optimizer step of the baseline, by packing: the paper's eight windows


@dataclass(frozen=True)
class Choice:
    """Settings of the baseline: whether it packs, its batch, and the windows a second that it reached with both."""

    packing: bool
    batch: int
    rate: float = 0.0

    def __str__(self) -> str:
        return f"packing {'on' if self.packing else 'off'}, batch {self.batch}"


def compare(inputs: Inputs, ours_only: bool = False) -> Comparison:
    """Targets a second of both sides, and the share of the peak that ours uses.

    Among the details, `choice` is the baseline's better settings, for the comparison of accuracy.
    """
    sequences = our_sequences(inputs, inputs.stretches(inputs.sizes.sft_targets, inputs.params.seed))
    windows = chosen_windows(inputs)
    console.print("SFT: warming up")
    our_rate(inputs, sequences[: inputs.params.sft.batch_size])
    choices, trials = ([], {}) if ours_only else find_choices(inputs, windows)
    results = alternate({"peak": lambda _: peak(), "ours": lambda _: our_rate(inputs, sequences)} | {
        str(choice): lambda _, choice=choice: baseline_rate(inputs, windows, choice) for choice in choices
    }, inputs.sizes.rounds)
    rates = {str(choice): results[str(choice)] for choice in choices}
    choices = [replace(choice, rate=float(np.median(rates[str(choice)]))) for choice in choices]
    best = max(choices, key=lambda choice: choice.rate, default=None)
    targets = count_targets(inputs, sequences)
    shares, flops_a_target = peak_rows("SFT", needed_flops(inputs, sequences), targets, results)
    speed = Row(
        "SFT", "TRL SFTTrainer, the better of packing on and off", "labelled targets/s", results["ours"],
        [max(values) for values in zip(*rates.values(), strict=True)], target=25, note=str(best or ""),
    )
    return Comparison([speed, *shares], {
        "trials": trials, "choice": asdict(best) if best else None, "baseline_rates": rates, "our_targets": targets,
        "our_sequences": len(sequences), "our_tokens": int(sequences["input_ids"].list.len().sum()),
        "baseline_windows": len(windows),
        "baseline_tokens_a_window": float(np.mean([len(ids) for ids in windows["input_ids"]])),
        "flops_a_target": flops_a_target, "peak_flops_a_second": results["peak"],
    })


def find_choices(inputs: Inputs, windows: Dataset) -> tuple[list[Choice], dict[str, Any]]:
    """After warming up, the fastest batch without and with packing, where it runs at all, and what was tried."""
    choices: list[Choice] = []
    trials: dict[str, Any] = {}
    few = windows.select(range(min(len(windows), max(8, *inputs.sizes.batches))))
    for packing in (False, True):  # which puts about two windows into a row
        options = dict.fromkeys(Choice(packing, max(1, size // (1 + packing))) for size in inputs.sizes.batches)
        with listening("trl", "transformers") as heard:
            fastest(list(options)[:1], lambda option: baseline_rate(inputs, windows.select([0]), option), "warm-up,")
            best, rates = fastest(list(options), lambda option: baseline_rate(inputs, few, option), "TRL,")
        trials[f"packing {'on' if packing else 'off'}"] = {"rates": rates, "warnings": heard}
        if best is not None:
            choices.append(replace(best, rate=rates[str(best)]))
    return choices, trials


def peak_rows(
    work: str, needed: flops.Flops, units: int, results: dict[str, list[float]]
) -> tuple[list[Row], dict[str, float]]:
    """Shares of each round's `peak` that `ours`, in units a second, uses; and operations a unit."""
    flops_a_unit = {"linear": needed.linear / units, "total": sum(needed) / units}
    labels = {"linear": ("linear layers only", None), "total": ("with attention and head", 0.5)}
    return [
        Row(f"FLOPs used, {work}", "a measured product of 4096² matrices, same dtype", f"share, {label}",
            [rate * flops_a_unit[part] / top for rate, top in zip(results["ours"], results["peak"], strict=True)],
            rule="at_least", target=target)
        for part, (label, target) in labels.items()
    ], flops_a_unit


def our_sequences(inputs: Inputs, rows: np.ndarray) -> pl.DataFrame:
    """Streams that hold each of `rows` as a target once."""
    return table(inputs.stream.sequences(rows, len(rows), stream(inputs.params.seed, "benchmark sequences")))


def count_targets(inputs: Inputs, sequences: pl.DataFrame) -> int:
    """Targets with a label on them."""
    return int(sequences["target_behavior"].explode().is_in(inputs.trained).sum())


def chosen_windows(inputs: Inputs) -> Dataset:
    """A seeded choice of labelled windows among our targets, one prompt and completion each."""
    rows = inputs.labels_among(inputs.stretches(inputs.sizes.sft_targets, inputs.params.seed))
    order = stream(inputs.params.seed, "benchmark sft windows").permutation(rows)
    return baseline_windows(inputs, order[: inputs.sizes.sft_windows])


def baseline_windows(inputs: Inputs, rows: np.ndarray) -> Dataset:
    """Token ids and completion masks of windows in the paper's layout."""
    prompts = [inputs.window.prompt(row) for row in rows.tolist()]
    answers = [inputs.window.answers[behavior] for behavior in inputs.log.behavior[rows]]
    pairs = list(zip(prompts, answers, strict=True))
    return Dataset.from_dict({
        "input_ids": [prompt + answer for prompt, answer in pairs],
        "completion_mask": [[0] * len(prompt) + [1] * len(answer) for prompt, answer in pairs],
    })


def our_trainer(inputs: Inputs, sequences: pl.DataFrame, **changes: Any) -> SequenceTrainer:
    """The trainer of stage `sft`, without validation; `changes` are of its configuration."""
    params, samples = inputs.params, labelled(sequences, inputs.trained)
    schedule = params.sft.model_copy(update={"epochs": 1})
    settings = arguments(schedule, len(samples), inputs.folder / "ours", params.seed, MICRO_BATCH)
    return SequenceTrainer(
        model=new_adapter(inputs.model, params.lora, params.seed),
        args=SFTConfig(**settings | NO_VALIDATION | changes, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=samples, processing_class=inputs.tokenizer, schedule=schedule,
    )


def baseline_trainer(inputs: Inputs, windows: Dataset, choice: Choice, **changes: Any) -> SFTTrainer:
    """TRL's own trainer on the same adapter."""
    params = inputs.params
    settings = baseline_arguments(
        str(inputs.folder / "baseline"), params.seed, params.sft.learning_rate, choice.batch, _STEP[choice.packing]
    )
    settings |= {"num_train_epochs": 1, "completion_only_loss": True, "packing": choice.packing, "max_length": _PACK,
                 "activation_checkpointing": False}
    if not choice.packing:
        settings["train_sampling_strategy"] = "group_by_length"
    return SFTTrainer(
        model=new_adapter(inputs.model, params.lora, params.seed), args=SFTConfig(**settings | changes),
        train_dataset=windows, processing_class=inputs.tokenizer,
    )


def our_rate(inputs: Inputs, sequences: pl.DataFrame) -> float:
    """Labelled targets a second, over one pass."""
    return count_targets(inputs, sequences) / train(our_trainer(inputs, sequences)).seconds


def baseline_rate(inputs: Inputs, windows: Dataset, choice: Choice) -> float:
    """Windows a second, over one pass; each carries one labelled target."""
    return len(windows) / train(baseline_trainer(inputs, windows, choice)).seconds


def needed_flops(inputs: Inputs, sequences: pl.DataFrame) -> flops.Flops:
    """Operations of one pass of ours over `sequences`."""
    samples = labelled(sequences, inputs.trained)
    read = [max(at for at, label in enumerate(labels) if label != IGNORED) for labels in samples["labels"]]
    return flops.training(
        flops.Shape.of(load_base(inputs.model), inputs.params.lora.rank),
        prefix=shared_prefix(samples["input_ids"]), steps=steps_per_epoch(len(samples), inputs.params.sft.batch_size),
        read=read, labelled=sum(label != IGNORED for labels in samples["labels"] for label in labels),
    )
