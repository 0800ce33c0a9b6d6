"""What baselines made of a language model share: the targets of SFT, settings tried in turn, predictions, a stage.

They learn from the sequences that stage `instructions` makes for the same seed, `instructions.train_targets` targets,
and are validated on `instructions.valid_targets` of them: the budget of the project's own A-Tuning. The best validation
of a setting is that of the least loss; between settings decides the mean reciprocal rank, as in all baselines.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
from datasets import Dataset
from peft import PeftModel
from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from stages.baselines.fitting.settings import Counts, Dropouts, Rates, choices
from stages.baselines.fitting.stage import MODEL, baseline, latency_ms, predictions_of
from stages.baselines.fitting.task import Task, tuning_counts
from stages.baselines.language.training import (
    Plan, adapted, lora_weights, merged, reciprocal_rank, train, without_dropout,
)
from stages.common.draws import stream
from stages.common.errors import UserError
from stages.common.files import atomic_folder, write_json
from stages.common.params import Positive, Section, Seed, Share
from stages.common.stage import Kind, Stage
from stages.model.likelihood import score
from stages.model.load import load_base, load_tokenizer, save_adapter
from stages.model.resolve import read_manifest, write_manifest
from stages.prompts.layout import Layout, TokenSequence, prompts, table
from stages.prompts.log import EventLog
from stages.prompts.settings import Instructions, PromptParams
from stages.prompts.window import WindowLayout
from stages.training.loop import Validations, copied, restore
from stages.training.sequences import labelled
from stages.windows.settings import Predictions


class LanguageParams(PromptParams):
    """The sections of params.yaml that baselines made of a language model follow from."""

    seed: Seed
    instructions: Instructions
    predictions: Predictions


class Trained(Section):
    """What training any of them is tuned over, and what is fixed; `Plan` says what the parts of its own mean."""

    learning_rate: Rates
    epochs: Counts
    batch_size: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    warmup: Share
    least_rate: Share
    validations: Positive


class Adapted(Trained):
    """The same where an adapter is trained."""

    dropout: Dropouts
    rank: Positive
    alpha: Annotated[float, Field(gt=0)]


class LanguageBaseline(ABC):
    """A language model that is tuned; `fit` leaves it with the best setting's weights.

    Subclasses train what `build` made in `learn`. Adapters are on `modules`, a choice of PEFT's `target_modules`; the
    `projector`, if there is one, trains beside the adapter.
    """

    section: str
    kind: type[Trained]
    modules: str | tuple[str, ...]
    params: LanguageParams
    model: PeftModel
    projector: Any = None

    def __init__(self, task: Task, model: Path):
        """
        Raises:
            UserError: a setting is wrong, or there is nothing to train on or to validate on.
        """
        self.task, self.folder = task, model
        self.budget, self.values = task.settings(self.section, self.kind)
        changed = {"prompt": task.params.prompt.model_copy(update={"context": task.context})}
        self.params = task.params.model_copy(update=changed)
        self.tokenizer, self.base = load_tokenizer(model), load_base(model)
        self.log = EventLog.from_tables(task.events, task.vocabulary)
        self.layout = self.make_layout()
        train = self._sequences("train", self.params.instructions.train_targets)
        self.valid_sequences = self._sequences("valid", self.params.instructions.valid_targets)
        known = range(len(self.layout.candidates))
        self.train, self.valid = (labelled(table(sequences), known) for sequences in (train, self.valid_sequences))
        self.targets = sum(len(sequence.spans) for sequence in train)
        self._first_stages: dict[tuple, tuple[dict[str, torch.Tensor], float]] = {}
        for split, samples in (("train", self.train), ("valid", self.valid)):
            if not len(samples):
                raise UserError(f"windows: no target of split {split} is a behaviour of the vocabulary")

    @abstractmethod
    def make_layout(self) -> Layout:
        """What its prompts are like."""

    def build(self, settings: dict[str, Any]) -> None:
        """Make `model` anew, of `base` with a fresh adapter; and the projector, where there is one."""
        size = settings["rank"], settings["alpha"], settings["dropout"]
        self.model = adapted(self.base, self.modules, *size, self.params.seed)

    @abstractmethod
    def learn(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Train what was built; what a trial's record says of it."""

    def release(self) -> None:
        """Take off `base` again what `build` put on it."""
        self.base = self.model.unload()

    def prepare_vectors(self) -> None:  # noqa: B027, most have none
        """Have the soft vectors of all prompts made so far ready to be read."""

    def visible(self, prompt: list[int]) -> list[int]:
        """What the model reads of a prompt of the layout."""
        return prompt

    def tune(self, title: str, settings: dict[str, Any], **hooks: Callable) -> tuple[Validations, dict[str, Any]]:
        """Train all of `weights`; how it went, and what a trial's record says of it."""
        course = train(title, self.model, self.weights(), self.train, self.valid,
                       Plan.of(settings, self.budget.patience), self.params.seed, **hooks)
        return course, {"loss": course.best, "step": course.best_step, "steps": course.steps}

    def first_stage(self, title: str, settings: dict[str, Any], prefix: str, samples: Dataset, valid: Dataset) -> float:
        """Train the adapter on other samples, once for all settings that do not differ in it; the validation loss.

        The settings of this stage begin with `prefix`.
        """
        plan, weights = Plan.of(settings, self.budget.patience, prefix), lora_weights(self.model)
        key = plan, settings["dropout"]
        if key not in self._first_stages:
            course = train(title, self.model, weights, samples, valid, plan, self.params.seed)
            self._first_stages[key] = copied(weights), course.best
        kept, loss = self._first_stages[key]
        restore(weights, kept)
        return loss

    def state(self) -> dict[str, torch.Tensor]:
        """All in which results of settings differ: the adapter's weights, the projector's, its constants."""
        beside = {} if self.projector is None else self.projector.state_dict(prefix="projector.", keep_vars=True)
        return lora_weights(self.model) | beside

    def weights(self) -> dict[str, nn.Parameter]:
        """What of it training may change."""
        return {name: value for name, value in self.state().items() if isinstance(value, nn.Parameter)}

    def fit(self) -> "Fitted":
        """Train with each of the budget's settings.

        Raises:
            UserError: no setting ever gave finite scores.
        """
        best, trials = None, []
        for settings in choices(self.values, self.budget.trials, self.params.seed):
            self.build(settings)
            record = self.learn(settings)
            self.prepare_vectors()
            found = reciprocal_rank(self.model, self.valid_sequences, self.layout.answers, self.budget.valid_windows,
                                    f"{self.section}: validation", self.visible)
            trials.append({**settings, "score": found, **record})
            if math.isfinite(found) and (best is None or found > best[0]):
                best = found, settings, copied(self.state())
            self.release()
        if best is None:
            raise UserError(f"{self.section}: no setting gave finite scores on the validation windows: {trials}")
        found, settings, kept = best
        self.build(settings)
        restore(self.state(), kept)
        self.prepare_vectors()
        return Fitted(self, settings, found, trials)

    def _sequences(self, split: str, limit: int) -> list[TokenSequence]:
        """As stage `instructions` chooses them."""
        rows = self.task.windows.filter(split=split)["row"].sort().to_numpy()
        if not len(rows):
            raise UserError(f"windows: none of split {split}; the log has too few users, or too short ones")
        return self.layout.sequences(rows, limit, stream(self.params.seed, f"instructions {split}"))


@dataclass(frozen=True)
class Fitted:
    """A baseline with the best of the settings that were tried; fields as of the sequential ones' `Fitted`."""

    baseline: LanguageBaseline
    settings: dict[str, Any]
    score: float
    trials: list[dict[str, Any]]

    @property
    def valid_windows(self) -> int:
        """How many validation targets its trials are scored on."""
        answers, sequences = self.baseline.layout.answers, self.baseline.valid_sequences
        known = sum(behavior < len(answers) for each in sequences for behavior in each.behaviors)
        return min(self.baseline.budget.valid_windows, known)

    def log_p(self, rows: Sequence[int], title: str = "predictions") -> np.ndarray:
        """Log-probabilities `(N, V)` float32 of the windows whose targets are `rows`."""
        visible = [self.baseline.visible(prompt) for prompt in prompts(self.baseline.layout, rows)]
        self.baseline.prepare_vectors()
        with without_dropout(self.baseline.model):
            return score(self.baseline.model, visible, self.baseline.layout.answers, title).log_p


def language(
    name: str, description: str, kind: Callable[..., LanguageBaseline], reads: Mapping[str, Kind] | None = None
) -> Stage:
    """Arguments as of `baseline`; `kind` makes one from the task, `model`, and what the further `reads` gave."""
    return baseline(name, description, lambda task, **given: kind(task, **given).fit(), predictions, write_weights,
                    LanguageParams, MODEL | dict(reads or {}))


def predictions(fitted: Fitted, task: Task, wanted: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Table `predictions` of the windows `wanted`, and what stands beside it.

    They are made as the project's own are, with the adapter merged into the weights. `latency_ms` is the median time
    of one window by itself, from the log to log-probabilities, its whole prompt read.
    """
    layout, rows = fitted.baseline.layout, wanted["row"].to_list()
    before = layout.dropped
    with merged(fitted.baseline.model):
        frame = predictions_of(wanted, fitted.log_p(rows))
        dropped = layout.dropped - before
        latency = latency_ms(lambda row: fitted.log_p([row]), rows)
    return frame, {
        "layout": "window" if isinstance(layout, WindowLayout) else "stream", "context": task.context,
        "windows": len(frame), "events_dropped": dropped, "trained_targets": fitted.baseline.targets,
        "trained_parameters": sum(weight.numel() for weight in fitted.baseline.weights().values()),
        "latency_ms": latency,
        **tuning_counts(fitted.settings, fitted.trials, fitted.score, fitted.valid_windows),
    }


def write_weights(fitted: Fitted, folder: Path) -> None:
    """The adapter, as PEFT reads it, or its base's record alone; `projector.safetensors` where there is one;
    `settings.json`; all or none."""
    model, projector = fitted.baseline.model, fitted.baseline.projector
    with atomic_folder(folder) as part:
        if projector is not None:
            save_file(copied(projector.state_dict()), part / "projector.safetensors")
        write_json(part / "settings.json", fitted.settings)
        manifest = read_manifest(fitted.baseline.folder)
        if isinstance(model, PeftModel):
            save_adapter(model, manifest, part)
        else:
            write_manifest(manifest, part)
