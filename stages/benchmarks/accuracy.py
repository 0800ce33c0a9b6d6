"""Validation accuracy after the same wall-clock of SFT: ours against TRL's SFTTrainer at its better settings.

Both train the same new adapter on the same stretches of the log, each in its layout, for the same number of seconds;
each one's schedule is as long as its measured rate says, so that the rate has come down when the time is over. The
same validation windows are then scored, each model's in the layout that it was trained on.
"""

from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, Trainer

from stages.benchmarks.data import Material, labels_among, stretches
from stages.benchmarks.sft import (
    PACKED, Choice, count_targets, our_rate, our_sequences, our_trainer, their_choice, their_trainer, their_windows,
    trials,
)
from stages.benchmarks.sizes import Sizes
from stages.benchmarks.timing import Comparison, Row
from stages.benchmarks.training import Clock, trained
from stages.common.console import console
from stages.common.draws import stream
from stages.model.likelihood import score
from stages.model.load import load_merged, save_adapter
from stages.model.resolve import read_manifest
from stages.prompts.layout import Layout, prompts

# More than this many targets is more than a trial of minutes can see.
_MOST_TARGETS = 60_000


def compare(
    material: Material, sizes: Sizes, folder: Path, choice: Choice | None, ours_only: bool = False
) -> Comparison:
    """Accuracy of both sides; `choice` are theirs' settings where the comparison `sft` has found them."""
    if choice is None and not ours_only:
        choice = find_choice(material, sizes, folder)
    few = our_sequences(material, stretches(material, sizes.sft_targets // 4, material.params.seed))
    rate = our_rate(material, few, folder)
    wanted = int(min(_MOST_TARGETS, 1.5 * rate * sizes.accuracy_seconds))
    rows = stretches(material, wanted, material.params.seed)
    valid = validation_rows(material, sizes.accuracy_windows)
    console.print(f"accuracy: {sizes.accuracy_seconds:.0f} s of training on either side")
    ours, our_clock, targets = train_ours(material, rows, rate, sizes.accuracy_seconds, folder)
    our_accuracy = accuracy(material, material.stream, ours, valid, folder / "ours_trained")
    base = load_merged(material.model)
    details = {"validation_windows": len(valid), "our_seconds": our_clock.seconds, "our_steps": our_clock.steps,
               "our_targets": targets, "our_accuracy_untrained": right(material, material.stream, base, valid)}
    if choice is None:
        return Comparison([Row("accuracy after the same time", "", "accuracy", [our_accuracy], rule="higher")], details)
    theirs, their_clock = train_theirs(material, rows, choice, sizes.accuracy_seconds, folder)
    their_accuracy = accuracy(material, material.window, theirs, valid, folder / "their_trained")
    details |= {"their_seconds": their_clock.seconds, "their_steps": their_clock.steps,
                "their_accuracy_untrained": right(material, material.window, base, valid)}
    console.print(f"  ours {our_accuracy:.3f}, theirs {their_accuracy:.3f}")
    return Comparison([Row(
        f"validation accuracy after {sizes.accuracy_seconds:.0f} s of SFT", "TRL SFTTrainer, its better settings",
        "accuracy", [our_accuracy], [their_accuracy], rule="higher",
    )], details)


def find_choice(material: Material, sizes: Sizes, folder: Path) -> Choice | None:
    """Theirs' better settings, from one trial of each."""
    rows = stretches(material, sizes.sft_targets, material.params.seed)
    batches, seen = trials(material, their_choice(material, rows, sizes.sft_windows), sizes, folder)
    choices = [Choice(packing, batch, seen[PACKED[packing]]["rates"][str(batch)]) for packing, batch in batches.items()]
    return max(choices, key=lambda choice: choice.rate, default=None)


def validation_rows(material: Material, count: int) -> np.ndarray:
    """Rows of validation windows as they come, a seeded choice."""
    rows = material.rows("valid")
    rows = rows[material.log.behavior[rows] < material.log.vocabulary_size]
    return np.sort(stream(material.params.seed, "benchmark validation windows").permutation(rows)[:count])


def train_ours(material: Material, rows: np.ndarray, rate: float, seconds: float, folder: Path):
    """Our trainer after `seconds`, its clock, and the labelled targets that its steps took."""
    sequences, clock = our_sequences(material, rows), Clock(seconds)
    batch = material.params.sft.batch_size
    targets_a_step = batch * count_targets(material, sequences) / len(sequences)
    steps = max(1, round(rate * seconds / targets_a_step))
    trainer = trained(our_trainer(material, sequences, folder, [clock], max_steps=steps))
    return trainer, clock, clock.steps * targets_a_step


def train_theirs(material: Material, rows: np.ndarray, choice: Choice, seconds: float, folder: Path):
    """Their trainer after `seconds`, and its clock."""
    labels = stream(material.params.seed, "benchmark training windows").permutation(labels_among(material, rows))
    enough = int(2 * choice.rate * seconds) + 8 * choice.batch
    clock, windows = Clock(seconds), their_windows(material, labels[:enough])
    windows_a_step = max(8, choice.batch * (2 if choice.packing else 1))
    steps = max(1, round(choice.rate * seconds / windows_a_step))
    trainer = their_trainer(material, windows, choice.packing, choice.batch, folder, [clock], max_steps=steps)
    return trained(trainer), clock


def accuracy(material: Material, layout: Layout, trainer: Trainer, rows: np.ndarray, folder: Path) -> float:
    """Accuracy of what was trained, the adapter merged as the pipeline does it."""
    save_adapter(trainer.accelerator.unwrap_model(trainer.model), read_manifest(material.model), folder)
    return right(material, layout, load_merged(folder), rows)


def right(material: Material, layout: Layout, model: PreTrainedModel, rows: np.ndarray) -> float:
    """Share of windows whose true behaviour is the likeliest candidate."""
    log_p = score(model, prompts(layout, rows), layout.answers, "validation").log_p
    return float((log_p.argmax(axis=1) == material.log.behavior[rows]).mean())
