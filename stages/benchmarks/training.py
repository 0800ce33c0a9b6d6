"""What comparisons of training share: a clock, arguments for measuring, and the choice of a rival's batch."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from stages.benchmarks.timing import now
from stages.common.console import console
from stages.model.load import compute_dtype

# Looks at validation data and checkpoints are no part of training's speed.
NO_LOOKS = {"eval_strategy": "no", "eval_on_start": False, "save_strategy": "no"}


class Clock(TrainerCallback):
    """Seconds from the first step's begin to the last one's end; training stops where `limit` seconds are over."""

    def __init__(self, limit: float | None = None):
        self.limit, self.seconds, self.steps = limit, 0.0, 0
        self._start: float | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        if self._start is None:
            self._start = now()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds, self.steps = now() - self._start, state.global_step
        if self.limit is not None and self.seconds >= self.limit:
            control.should_training_stop = True


def trained(trainer: Trainer) -> Trainer:
    """Train without the trainer's own printing."""
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    trainer.train()
    return trainer


def their_arguments(folder: str, seed: int, learning_rate: float, batch: int, step: int) -> dict[str, Any]:
    """Settings of a rival's trainer that make it train as ours does; everything else is its default.

    `batch` samples a forward pass, `step` an optimizer step.
    """
    return dict(
        output_dir=folder, seed=seed, data_seed=seed, per_device_train_batch_size=batch,
        gradient_accumulation_steps=max(1, step // batch),
        learning_rate=learning_rate, lr_scheduler_type="cosine", warmup_steps=0.1, weight_decay=0.0,
        bf16=compute_dtype() == torch.bfloat16, use_cpu=not torch.cuda.is_available(), save_strategy="no",
        report_to=[], disable_tqdm=True, dataloader_pin_memory=torch.cuda.is_available(),
    )


def fastest(options: Iterable[int], rate: Callable[[int], float], name: str) -> tuple[int | None, dict[str, Any]]:
    """The option with the highest rate, and what each reached: a rate, or the message of the error it died of."""
    seen: dict[str, Any] = {}
    best, highest = None, 0.0
    for option in options:
        try:
            reached = rate(option)
        except Exception as error:  # a rival's failure is a result, and the other settings may do
            seen[str(option)] = f"{type(error).__name__}: {error}"
            continue
        seen[str(option)] = reached
        console.print(f"  {name}, batch {option}: {reached:.3g} a second")
        if reached > highest:
            best, highest = option, reached
    return best, seen


@contextmanager
def listening(*names: str) -> Iterator[list[str]]:
    """What the loggers of these names, and Python's warnings, say meanwhile; each message once."""
    heard: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (message := record.getMessage()) not in heard:
                heard.append(message)

    keep = Keep(logging.WARNING)
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(keep)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield heard
        heard += [m for m in dict.fromkeys(str(warning.message) for warning in caught) if m not in heard]
    finally:
        for logger in loggers:
            logger.removeHandler(keep)
