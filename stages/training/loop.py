"""What A-Tuning and B-Tuning share: arguments, the rate's schedule, checkpoints that survive a kill, the best adapter."""

import csv
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from stages.common.console import Track, console
from stages.common.errors import UserError
from stages.common.files import atomic_file, read_json, write_json
from stages.common.stage import Kind, at_least_1
from stages.model.load import compute_dtype
from stages.training.settings import Dpo, Sft

_COMPLETE = "complete"
_SECONDS_BETWEEN_CHECKPOINTS = 60.0


def arguments(params: Sft | Dpo, samples: int, folder: Path, seed: int, micro_batch: int) -> dict[str, Any]:
    """Keyword arguments for TRL's configs, of which the device count and the micro-batch change nothing but speed.

    Args:
        params: the stage's section.
        samples: how many there are to train on.
        folder: for checkpoints.
        seed: of the batches' order.
        micro_batch: most samples in one forward pass.

    Raises:
        UserError: `batch_size` cannot be shared evenly among the devices.
    """
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    if params.batch_size % devices:
        raise UserError(f"batch_size: {params.batch_size}: not a multiple of the {devices} devices of this run")
    share = params.batch_size // devices
    micro = max(size for size in range(1, share + 1) if share % size == 0 and size <= micro_batch)
    steps = steps_per_epoch(samples, params.batch_size)
    # Trainer looks every `eval_steps` and at the end. Validation loss is a mean of batches' means: one
    # sequence each, or the batch would be part of the result
    return dict(
        output_dir=str(folder), seed=seed, data_seed=seed, num_train_epochs=params.epochs,
        per_device_train_batch_size=micro, per_device_eval_batch_size=1,
        gradient_accumulation_steps=share // micro, learning_rate=params.learning_rate, weight_decay=0.0,
        bf16=compute_dtype() == torch.bfloat16, fp16=False, use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=False, eval_strategy="steps",
        eval_steps=max(1, math.ceil(steps / params.validations_per_epoch)), eval_on_start=True, save_strategy="no",
        save_total_limit=2, logging_strategy="steps", logging_steps=max(1, steps // 20), report_to=[],
        dataloader_pin_memory=False, disable_tqdm=True, max_length=None,
    )


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Optimizer steps of one pass over the samples."""
    return max(1, math.ceil(samples / batch_size))


class WarmupCosine:
    """Mixin for a Trainer: the rate rises from `min_learning_rate` over the warm-up, then falls to it in a cosine."""

    schedule: Sft | Dpo

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if self.lr_scheduler is None:
            low = min(1.0, self.schedule.min_learning_rate / self.schedule.learning_rate)
            warmup = math.ceil(num_training_steps * self.schedule.warmup)

            def factor(step: int) -> float:
                if step < warmup:
                    return low + (1 - low) * step / warmup
                progress = min(1.0, (step - warmup) / max(1, num_training_steps - warmup))
                return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler


class KeepBest(TrainerCallback):
    """Keeps the adapter of the best look at the validation data on disk, and stops when patience is out.

    Looks are stored by step, so that one taken again after a resume counts once. The untrained adapter (step 0) takes
    part: training that only makes things worse keeps nothing.
    """

    def __init__(self, folder: Path, metric: str, greater_is_better: bool, patience: int):
        self.folder, self.metric, self.patience = folder, metric, patience
        self.sign = 1 if greater_is_better else -1
        self.looks: dict[str, float] = read_json(self._record) if self._record.exists() else {}

    @property
    def _record(self) -> Path:
        return self.folder / "looks.json"

    @property
    def best_step(self) -> int:
        """Optimizer step of the best look so far, the earliest among equals."""
        return int(max(self.looks, key=lambda step: (self.sign * self.looks[step], -int(step))))

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs):
        if self.metric not in (metrics or {}):
            return
        value, step = float(metrics[self.metric]), str(state.global_step)
        best_before = self.sign * self.looks[str(self.best_step)] if self.looks else -math.inf
        if state.is_world_process_zero and (step not in self.looks and self.sign * value > best_before):
            with atomic_file(self.folder / "best.safetensors") as part:
                save_file(_adapter_state(model), part)
        self.looks.setdefault(step, value)
        if state.is_world_process_zero:
            write_json(self._record, self.looks)
        if sum(self.best_step < int(look) <= state.global_step for look in self.looks) >= self.patience:
            control.should_training_stop = True

    def restore(self, model: PeftModel) -> None:
        """Put the best adapter's weights back into `model`."""
        set_peft_model_state_dict(model, load_file(self.folder / "best.safetensors"), adapter_name="default")


class Checkpoints(TrainerCallback):
    """Saves now and then and marks what was saved whole; a kill in the middle of saving costs that save only."""

    def __init__(self, folder: Path):
        self.folder, self._saved = folder, time.monotonic()

    def latest(self) -> str | None:
        """The newest whole checkpoint, if any; broken ones are removed."""
        whole = []
        for path in self.folder.glob("checkpoint-*"):
            if (path / _COMPLETE).exists():
                whole.append(path)
            else:
                shutil.rmtree(path)
        return str(max(whole, key=lambda p: int(p.name.split("-")[1]))) if whole else None

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() - self._saved >= _SECONDS_BETWEEN_CHECKPOINTS:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self._saved = time.monotonic()
        if state.is_world_process_zero:
            (self.folder / f"checkpoint-{state.global_step}" / _COMPLETE).touch()


class ShowProgress(TrainerCallback):
    """Optimizer steps as a progress bar with the time left and the latest loss."""

    def __init__(self, title: str):
        self.title, self._bar, self._note = title, None, ""

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self._bar = Track(self.title, state.max_steps)
            self._bar.done = state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        values = {key: (logs or {}).get(key) for key in ("loss", "eval_loss", "eval_overall")}
        self._note = ", ".join(f"{key} {float(v):.3f}" for key, v in values.items() if v is not None) or self._note

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar:
            self._bar.advance(note=self._note)

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar:
            self._bar.close()


def fit(
    make_trainer: Callable[[list[TrainerCallback]], Trainer], stage: str, folder: Path, metric: str,
    greater_is_better: bool, patience: int,
) -> tuple[Trainer, KeepBest]:
    """Train, resuming from `folder` where it holds a whole checkpoint; the trainer's model ends as its best look.

    `make_trainer` gets the callbacks. The caller removes `folder` when the result is safe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints, best = Checkpoints(folder), KeepBest(folder, metric, greater_is_better, patience)
    trainer = make_trainer([checkpoints, best, ShowProgress(stage)])
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    if start := checkpoints.latest():
        console.print(f"{stage}: going on from step {Path(start).name.split('-')[1]} of an interrupted run")
        trainer.args.eval_on_start = False  # an uninterrupted run takes no look there
    trainer.train(resume_from_checkpoint=start)
    best.restore(trainer.accelerator.unwrap_model(trainer.model))
    return trainer, best


def write_history(history: list[dict[str, Any]], path: Path, columns: Sequence[str] = ()) -> None:
    """One CSV row a step with everything logged there, training and validation side by side; empty where unknown.

    `columns` are there even where nothing was logged.
    """
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        if "train_runtime" not in entry:
            rows.setdefault(entry["step"], {}).update(entry)
    hidden = {"step", "epoch", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}
    logged = {key for row in rows.values() for key in row} | set(columns)
    columns = ["step", "epoch", *sorted(logged - hidden)]
    with atomic_file(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[step] for step in sorted(rows))


HISTORY = Kind("CSV with one row a logged step", write=lambda made, path: write_history(made[0], path, made[1]))


def micro_batch_option(default: int, samples: str) -> dict[str, Any]:
    """The option --micro-batch of a training stage; `samples` is what a batch is made of."""
    return {"type": at_least_1, "default": default, "metavar": "N",
            "help": f"most {samples} in one forward pass: speed and memory only (default: %(default)s)"}


def summary(trainer: Trainer, best: KeepBest) -> dict[str, Any]:
    """What the metrics of both stages share."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "steps": trainer.state.global_step, "best_step": best.best_step,
        "first_look": best.looks[min(best.looks, key=int)], "best_look": best.looks[str(best.best_step)],
        "trained_parameters": trained,
    }


def _adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    model = getattr(model, "module", model)  # DistributedDataParallel's wrapper
    state = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
