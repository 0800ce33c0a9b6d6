"""What comparisons of training share: a clock, arguments for measuring, and the choice of a baseline's batch."""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from typing import Any, TypeVar

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from stages.benchmarks.timing import now
from stages.common.console import console
from stages.model.load import compute_dtype

T = TypeVar("T")
# Validation and checkpoints are no part of training's speed.
NO_VALIDATION = {"eval_strategy": "no", "eval_on_start": False, "save_strategy": "no"}


class Clock(TrainerCallback):
    """Seconds from the first step's begin to the last one's end; training stops where `limit` seconds are over."""

    def __init__(self, limit: float = float("inf")):
        self.limit, self.seconds, self.steps = limit, 0.0, 0
        self._start = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self._start = self._start or now()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds, self.steps = now() - self._start, state.global_step
        control.should_training_stop |= self.seconds >= self.limit


def train(trainer: Trainer, limit: float = float("inf")) -> Clock:
    """Train for at most `limit` seconds, without the trainer's own printing."""
    clock = Clock(limit)
    trainer.add_callback(clock)
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    trainer.train()
    return clock


def baseline_arguments(folder: str, seed: int, learning_rate: float, batch: int, step: int) -> dict[str, Any]:
    """Settings of a baseline's trainer that make it train as ours does; everything else is its default.

    `batch` samples a forward pass, `step` an optimizer step.
    """
    return {
        "output_dir": folder, "seed": seed, "data_seed": seed, "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": max(1, step // batch), "learning_rate": learning_rate,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "weight_decay": 0.0,
        "bf16": compute_dtype() == torch.bfloat16, "use_cpu": not torch.cuda.is_available(), "save_strategy": "no",
        "report_to": [], "disable_tqdm": True, "dataloader_pin_memory": torch.cuda.is_available(),
    }


def fastest(options: Iterable[T], rate: Callable[[Any], float], name: str) -> tuple[T | None, dict[str, Any]]:
    """The option with the highest rate, and what each reached: a rate, or the message of the error it died of."""
    seen: dict[str, Any] = {}
    rates: dict[T, float] = {}
    for option in options:
        try:
            seen[str(option)] = rates[option] = rate(option)
        except Exception as error:  # a baseline's failure is a result, and the other settings may do
            seen[str(option)] = f"{type(error).__name__}: {error}"
            continue
        console.print(f"  {name} {option}: {rates[option]:.3g} a second")
    return max(rates, key=rates.__getitem__, default=None), seen


@contextmanager
def listening(*names: str) -> Iterator[list[str]]:
    """What the loggers of these names, and Python's warnings, say meanwhile; each message once, after the block."""
    heard: list[str] = []
    handler, loggers = BufferingHandler(10_000), [logging.getLogger(name) for name in names]
    handler.setLevel(logging.WARNING)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield heard
        messages = [record.getMessage() for record in handler.buffer]
        heard[:] = dict.fromkeys(messages + [str(warning.message) for warning in caught])
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
