"""What SFT and DPO share on TRL's trainers: arguments, checkpoints that survive a kill, the best adapter, the history.

All that is overridden of TRL and transformers, and why:

    create_scheduler         both  the rate is that of loop.py, as everywhere: up from the least rate and back to it
    compute_loss             both  the head is applied where a label is and nowhere else, and what prompts begin with is
                                   read once; SFT's is the same number as TRL's, DPO's too (tests hold both)
    _get_train_sampler       SFT   the order follows from seed and epoch alone, so that a resumed run has the same;
                             both  on several devices the last step of an epoch is filled up (filling.py)
    _prepare_dataset         DPO   the samples are token ids; TRL would tokenise, and has no option to leave it out
    _get_num_items_in_batch  DPO   pairs are counted, so that accumulated batches of unequal size count as one would
    loss_is_scaled_for_ga    DPO   says that compute_loss has done so
    evaluate                 DPO   a validation is the accuracy on windows, not the loss on pairs

`_metrics` of DPOTrainer, whose means it logs beside the loss, is written to.
"""

import csv
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from stages.common import launch
from stages.common.console import Track, console
from stages.common.errors import UserError
from stages.common.files import atomic_file, read_json, write_json
from stages.common.processes import meet, told
from stages.common.stage import UNFINISHED, Kind, at_least_1
from stages.model.load import compute_dtype
from stages.model.resolve import read_manifest
from stages.training.loop import Validations, copied, warmup_cosine
from stages.training.settings import Training

datasets.disable_progress_bars()  # as in model/load.py, where the import would cost every other stage a second

_COMPLETE = "complete"
_SECONDS_BETWEEN_CHECKPOINTS = 60.0
_HIDDEN = {"step", "epoch", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


def arguments(params: Training, samples: int, folder: Path, seed: int, micro_batch: int) -> dict[str, Any]:
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
    devices = launch.count()
    if params.batch_size % devices:
        raise UserError(f"batch_size: {params.batch_size}: not a multiple of the {devices} devices of this run")
    share = params.batch_size // devices
    micro = max(size for size in range(1, share + 1) if share % size == 0 and size <= micro_batch)
    steps = steps_per_epoch(samples, params.batch_size)
    # Trainer validates every `eval_steps` and at the end. Validation loss is a mean of batches' means: one sequence
    # each, or the batch would be part of the result
    return {
        "output_dir": str(folder), "seed": seed, "data_seed": seed, "num_train_epochs": params.epochs,
        "per_device_train_batch_size": micro, "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": share // micro, "learning_rate": params.learning_rate, "weight_decay": 0.0,
        "bf16": compute_dtype() == torch.bfloat16, "fp16": False, "use_cpu": not torch.cuda.is_available(),
        "activation_checkpointing": False, "eval_strategy": "steps",
        "eval_steps": max(1, math.ceil(steps / params.validations_per_epoch)), "eval_on_start": True,
        "save_strategy": "no", "save_total_limit": 2, "logging_strategy": "steps",
        "logging_steps": max(1, steps // 20), "report_to": [],
        "dataloader_pin_memory": False, "disable_tqdm": True, "max_length": None, "remove_unused_columns": False,
    }


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Optimizer steps of one pass over the samples."""
    return max(1, math.ceil(samples / batch_size))


class WarmupCosine:
    """Mixin for a Trainer: its rate is `warmup_cosine`, between `min_learning_rate` and `learning_rate`."""

    schedule: Any
    lr_scheduler: Any
    optimizer: Any

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if self.lr_scheduler is None:
            least = min(1.0, self.schedule.min_learning_rate / self.schedule.learning_rate)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: warmup_cosine(step, num_training_steps, self.schedule.warmup, least))
        return self.lr_scheduler


class KeepBest(TrainerCallback):
    """Keeps the adapter of the best validation on disk, and stops when patience is out.

    Validations are stored too: those of an interrupted run count in the one that goes on from it.
    """

    def __init__(self, folder: Path, metric: str, greater_is_better: bool, patience: int):
        self.metric, self._best, self._record = metric, folder / "best.safetensors", folder / "validations.json"
        found = told(read_json(self._record) if self._record.exists() else {})
        self.validations = Validations(patience, greater_is_better, {int(step): found[step] for step in found})

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs):
        if self.metric not in (metrics or {}):
            return
        better = self.validations.add(state.global_step, float(metrics[self.metric]))
        if state.is_world_process_zero:
            if better:
                with atomic_file(self._best) as part:
                    save_file(_adapter_state(model), part)
            write_json(self._record, self.validations.values)
        if self.validations.exhausted(state.global_step):
            control.should_training_stop = True

    def restore(self, model: PeftModel) -> None:
        """Put the best adapter's weights back into `model`, in the process that writes it."""
        if launch.is_first():
            set_peft_model_state_dict(model, load_file(self._best), adapter_name="default")


class Checkpoints(TrainerCallback):
    """Saves now and then and marks what was saved whole; a kill in the middle of saving costs that save only."""

    def __init__(self, folder: Path):
        self.folder, self._saved = folder, time.monotonic()

    def latest(self) -> str | None:
        """The newest whole checkpoint, if any, the same in all processes; broken ones are removed.

        Raises:
            UserError: this process does not see it.
        """
        newest = told(self._newest() if launch.is_first() else None)
        if newest and not Path(newest).exists():
            raise UserError(f"{newest}: not seen from here; processes on several machines need one folder for their "
                            "checkpoints: set BEHAVIORLM_CACHE to a shared one")
        return newest

    def _newest(self) -> str | None:
        whole = []
        for path in self.folder.glob("checkpoint-*"):
            if (path / _COMPLETE).exists():
                whole.append(path)
            else:
                shutil.rmtree(path)
        return str(max(whole, key=lambda p: int(p.name.split("-")[1]))) if whole else None

    def on_step_end(self, args, state, control, **kwargs):
        if told(time.monotonic() - self._saved >= _SECONDS_BETWEEN_CHECKPOINTS):
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self._saved = time.monotonic()
        meet()  # the others' random numbers are saved too
        if state.is_world_process_zero:
            (self.folder / f"checkpoint-{state.global_step}" / _COMPLETE).touch()


class ShowProgress(TrainerCallback):
    """Optimizer steps as a progress bar with the time left and the latest loss."""

    def __init__(self, title: str):
        self.title, self._note, self._validated = title, "", 0
        self._bar: Track | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self._bar = Track(self.title, state.max_steps)
            self._bar.done = state.global_step
            self._bar.show("the first validation comes before the first step" if args.eval_on_start else "")

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        self._validated += 1
        if self._bar:
            self._bar.advance(0, note=f"validation {self._validated} of {len(eval_dataloader)} {self._note}".rstrip())

    def on_evaluate(self, args, state, control, **kwargs):
        self._validated = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        values = {key: (logs or {}).get(key) for key in ("loss", "eval_loss", "eval_overall")}
        self._note = ", ".join(f"{key} {float(v):.3f}" for key, v in values.items() if v is not None) or self._note

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar:
            self._bar.advance(note=self._note)

    def on_train_end(self, args, state, control, **kwargs):
        if self._bar:
            self._bar.close()


class WatchedHistory(TrainerCallback):
    """Writes the history while it grows, with the column `UNFINISHED`, which the whole one has not."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            write_history(state.log_history, self.path, unfinished=state.max_steps)


def fit(
    make_trainer: Callable[[list[TrainerCallback]], Trainer], title: str, folder: Path, metric: str,
    greater_is_better: bool, patience: int, history: Path | None = None,
) -> tuple[Trainer, dict[str, Any]]:
    """Train, resuming from `folder` where it holds a whole checkpoint; the trainer's model ends as its best validation.

    Returns the trainer, and what the counts of both stages share. `make_trainer` gets the callbacks. The caller removes
    `folder` when the result is safe. What has been logged stands at `history` meanwhile, if there is one.
    """
    console.print(f"{title}: loading the model")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints, best = Checkpoints(folder), KeepBest(folder, metric, greater_is_better, patience)
    watched = [WatchedHistory(history)] if history else []
    trainer = make_trainer([checkpoints, best, ShowProgress(title), *watched])
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    if start := checkpoints.latest():
        console.print(f"{title}: going on from step {Path(start).name.split('-')[1]} of an interrupted run")
        trainer.args.eval_on_start = False  # an uninterrupted run does not validate there
    trainer.train(resume_from_checkpoint=start)
    model, found = trainer.accelerator.unwrap_model(trainer.model), best.validations
    best.restore(model)
    return trainer, {
        "steps": trainer.state.global_step, "best_step": found.best_step,
        "first_validation": found.first, "best_validation": found.best,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def outputs(adapter: PeftModel, history: list[dict], counts: dict[str, Any], model: Path) -> tuple:
    """What a stage that trains on the folder `model` writes, its base's manifest beside the adapter."""
    return (adapter, read_manifest(model)), history, counts


def history_csv(columns: Sequence[str] = ()) -> Kind:
    """A CSV with all that a trainer logged; `columns` are there even where nothing was."""
    return Kind("CSV with one row a logged step; it grows while training runs", grows=True,
                write=lambda history, path: write_history(history, path, columns))


def write_history(
    history: list[dict[str, Any]], path: Path, columns: Sequence[str] = (), unfinished: int | None = None
) -> None:
    """One row a step with everything logged there, training and validation side by side; empty where unknown.

    `unfinished`: the steps that training is to take, in a column of that name, while it has not ended.
    """
    rows: dict[int, dict[str, Any]] = {}
    for entry in history:
        if "train_runtime" not in entry:
            rows.setdefault(entry["step"], {}).update(entry)
    logged = {key for row in rows.values() for key in row} | set(columns)
    with atomic_file(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        mark = {} if unfinished is None else {UNFINISHED: unfinished}
        writer = csv.DictWriter(file, ["step", "epoch", *sorted(logged - _HIDDEN), *mark], restval="",
                                extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[step] | mark for step in sorted(rows))


def micro_batch_option(default: int, samples: str) -> dict[str, Any]:
    """The option --micro-batch of a training stage; `samples` is what a batch is made of."""
    return {"type": at_least_1, "default": default, "metavar": "N",
            "help": f"most {samples} in one forward pass: speed and memory only (default: %(default)s)"}


def _adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    model = getattr(model, "module", model)  # DistributedDataParallel's wrapper
    return copied(get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False))
