"""Validation accuracy after the same wall-clock of SFT: ours against TRL's SFTTrainer at its better settings.

Both train the same new adapter on the same stretches of the log, each in its layout, for the same number of seconds;
each one's schedule is as long as its measured rate says, so that the rate has come down when the time is over. The
same validation windows are then scored, each model's in the layout that it was trained on.
"""

from typing import Any

import numpy as np
from transformers import PreTrainedModel, Trainer

from stages.benchmarks import sft
from stages.benchmarks.data import Inputs
from stages.benchmarks.timing import Comparison, Row
from stages.benchmarks.training import Clock, train
from stages.common.console import console
from stages.common.draws import stream
from stages.model.likelihood import score
from stages.model.load import load_merged, save_adapter
from stages.model.resolve import read_manifest
from stages.prompts.layout import Layout, prompts

# More than this many targets is more than a trial of minutes can see.
_MOST_TARGETS = 60_000


def compare(inputs: Inputs, ours_only: bool = False, choice: sft.Choice | None = None) -> Comparison:
    """Accuracy of both sides; `choice` is the baseline's settings where the comparison `sft` has found them."""
    seconds, seed = inputs.sizes.accuracy_seconds, inputs.params.seed
    if choice is None and not ours_only:
        choices, _ = sft.find_choices(inputs, sft.chosen_windows(inputs))
        choice = max(choices, key=lambda choice: choice.rate, default=None)
    rate = sft.our_rate(inputs, sft.our_sequences(inputs, inputs.stretches(inputs.sizes.sft_targets // 4, seed)))
    rows = inputs.stretches(int(min(_MOST_TARGETS, 1.5 * rate * seconds)), seed)
    valid, base = validation_rows(inputs, inputs.sizes.accuracy_windows), load_merged(inputs.model)
    console.print(f"accuracy: {seconds:.0f} s of training on either side")
    sides = {"our": (inputs.stream, lambda: train_ours(inputs, rows, rate, seconds))}
    if choice is not None:
        sides["baseline"] = (inputs.window, lambda: train_baseline(inputs, rows, choice, seconds))
    reached: dict[str, list[float]] = {"our": [], "baseline": []}
    details: dict[str, Any] = {"validation_windows": len(valid)}
    for side, (layout, run) in sides.items():
        trainer, clock, targets = run()
        reached[side] = [accuracy(inputs, layout, trainer, valid)]
        details |= {f"{side}_seconds": clock.seconds, f"{side}_steps": clock.steps, f"{side}_targets": targets,
                    f"{side}_accuracy_untrained": share_right(inputs, layout, base, valid)}
        console.print(f"  {side} accuracy {reached[side][0]:.3f}")
    return Comparison([Row(
        f"validation accuracy after {seconds:.0f} s of SFT", "TRL SFTTrainer, its better settings", "accuracy",
        reached["our"], reached["baseline"], rule="higher",
    )], details)


def validation_rows(inputs: Inputs, count: int) -> np.ndarray:
    """Rows of validation windows as they come, a seeded choice."""
    rows = inputs.rows("valid")
    rows = rows[inputs.log.behavior[rows] < inputs.log.vocabulary_size]
    return np.sort(stream(inputs.params.seed, "benchmark validation windows").permutation(rows)[:count])


def train_ours(inputs: Inputs, rows: np.ndarray, rate: float, seconds: float) -> tuple[Trainer, Clock, float]:
    """Our trainer after `seconds`, its clock, and the labelled targets that its steps took."""
    sequences = sft.our_sequences(inputs, rows)
    a_step = inputs.params.sft.batch_size * sft.count_targets(inputs, sequences) / len(sequences)
    trainer = sft.our_trainer(inputs, sequences, max_steps=max(1, round(rate * seconds / a_step)))
    clock = train(trainer, seconds)
    return trainer, clock, clock.steps * a_step


def train_baseline(
    inputs: Inputs, rows: np.ndarray, choice: sft.Choice, seconds: float
) -> tuple[Trainer, Clock, float]:
    """The baseline's trainer after `seconds`, its clock, and the windows that its steps took."""
    enough = int(2 * choice.rate * seconds) + 8 * choice.batch
    labels = stream(inputs.params.seed, "benchmark training windows").permutation(inputs.labels_among(rows))[:enough]
    a_step = max(8, choice.batch * (2 if choice.packing else 1))
    trainer = sft.baseline_trainer(inputs, sft.baseline_windows(inputs, labels), choice,
                                   max_steps=max(1, round(choice.rate * seconds / a_step)))
    clock = train(trainer, seconds)
    return trainer, clock, clock.steps * a_step


def accuracy(inputs: Inputs, layout: Layout, trainer: Trainer, rows: np.ndarray) -> float:
    """Accuracy of what was trained, the adapter merged as the pipeline does it."""
    folder = inputs.folder / "trained"
    save_adapter(trainer.accelerator.unwrap_model(trainer.model), read_manifest(inputs.model), folder)
    return share_right(inputs, layout, load_merged(folder), rows)


def share_right(inputs: Inputs, layout: Layout, model: PreTrainedModel, rows: np.ndarray) -> float:
    """Share of windows whose true behaviour is the likeliest candidate."""
    log_p = score(model, prompts(layout, rows.tolist()), layout.answers, "validation").log_p
    return float((log_p.argmax(axis=1) == inputs.log.behavior[rows]).mean())
