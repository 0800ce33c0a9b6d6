"""What rows made of a language model share: targets as SFT gets them, settings tried in turn, predictions, a command.

They learn from the sequences that stage `instructions` makes for the same seed, `instructions.train_targets` targets,
and are looked at on `instructions.valid_targets` of them: the budget of the project's own A-Tuning. The best look of
a setting is that of the least validation loss; between settings decides the mean reciprocal rank, as in all rows.
"""

import argparse
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import torch
from peft import PeftModel
from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from stages.baselines.fitting.command import Options, Task, add_model, parser_of, run_with, table_of, tuning_facts
from stages.baselines.fitting.latency import latency_ms
from stages.baselines.fitting.settings import Counts, Dropouts, Rates, choices
from stages.baselines.language.training import adapted, lora_weights, merged, reciprocal_rank, without_dropout
from stages.common.errors import UserError
from stages.common.files import atomic_folder, write_json
from stages.common.params import Positive, Section, Seed, Share
from stages.prompts.settings import Instructions, PromptParams
from stages.model.likelihood import score
from stages.model.load import load_base, load_tokenizer, save_adapter
from stages.model.resolve import read_manifest, write_manifest
from stages.prompts.layouts import Layout, TokenSequence, prompts, table
from stages.prompts.log import EventLog
from stages.prompts.window import WindowLayout
from stages.training.loop import copied, restore
from stages.training.sequences import labelled
from stages.windows.settings import Predictions


class LanguageParams(PromptParams):
    """The sections of params.yaml that baselines made of a language model follow from."""

    seed: Seed
    instructions: Instructions
    predictions: Predictions


class Adapted(Section):
    """What all these rows are tuned over, and what is fixed; `Plan` says what the parts of its own mean."""

    learning_rate: Rates
    epochs: Counts
    dropout: Dropouts
    rank: Positive
    alpha: Annotated[float, Field(gt=0)]
    batch_size: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    warmup: Share
    least_rate: Share
    looks: Positive


class LanguageRow(ABC):
    """A language model that is tuned; `fit` leaves it with the best setting's weights.

    Subclasses train what `build` made in `learn`. Adapters are on `modules`, a choice of PEFT's `target_modules`.
    """

    section: str
    kind: type[Adapted]
    modules: str | tuple[str, ...]
    params: LanguageParams

    def __init__(self, task: Task, folder: Path):
        self.task, self.folder = task, folder
        self.budget, self.values = task.settings(self.section, self.kind)
        changed = {"prompt": task.params.prompt.model_copy(update={"context": task.context})}
        self.params = task.params.model_copy(update=changed)
        self.tokenizer, self.base = load_tokenizer(folder), load_base(folder)
        self.log = EventLog.of(task.events, task.vocabulary)
        self.layout = self.make_layout()
        limits = {"train": self.params.instructions.train_targets, "valid": self.params.instructions.valid_targets}
        made = {split: self._sequences(split, number, limit) for number, (split, limit) in enumerate(limits.items())}
        known = range(len(self.layout.candidates))
        self.train, self.valid = (labelled(table(sequences), known) for sequences in made.values())
        self.valid_sequences = made["valid"]
        self.targets = sum(len(sequence.spans) for sequence in made["train"])
        for split, samples in (("train", self.train), ("valid", self.valid)):
            if not len(samples):
                raise UserError(f"windows: no target of split {split} is a behaviour of the vocabulary")

    @abstractmethod
    def make_layout(self) -> Layout:
        """What its prompts are like."""

    def build(self, settings: dict[str, Any]) -> None:
        """Make `model` anew, of `base` with a fresh adapter; and what trains beside it, where something does."""
        size = settings["rank"], settings["alpha"], settings["dropout"]
        self.model = adapted(self.base, self.modules, *size, self.params.seed)

    @abstractmethod
    def learn(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Train what was built; what a trial's record says of it."""

    @property
    def projector(self) -> nn.Module | None:
        """What trains beside the adapter."""
        return None

    def release(self) -> None:
        """Take off `base` again what `build` put on it."""
        self.base = self.model.unload()

    def tell(self) -> None:
        """Make the soft vectors of all prompts made so far ready to be read."""

    def asked(self, prompt: list[int]) -> list[int]:
        """What the model is to read of a prompt of the layout."""
        return prompt

    def state(self) -> dict[str, torch.Tensor]:
        """All that tells one setting's result from another's: the adapter's weights, the projector's, its constants."""
        beside = {} if self.projector is None else self.projector.state_dict(prefix="projector.", keep_vars=True)
        return lora_weights(self.model) | beside

    def weights(self) -> dict[str, nn.Parameter]:
        """What of it training may change."""
        return {name: value for name, value in self.state().items() if isinstance(value, nn.Parameter)}

    def fit(self) -> "FittedRow":
        """Train with each of the budget's settings.

        Raises:
            UserError: no setting ever gave finite scores.
        """
        best, trials = None, []
        for settings in choices(self.values, self.budget.trials, self.params.seed):
            self.build(settings)
            facts = self.learn(settings)
            self.tell()
            found = reciprocal_rank(self.model, self.valid_sequences, self.layout.answers, self.budget.valid_windows,
                                    f"{self.section}: validation", self.asked)
            trials.append({**settings, "score": found, **facts})
            if math.isfinite(found) and (best is None or found > best[0]):
                best = found, settings, copied(self.state())
            self.release()
        if best is None:
            raise UserError(f"{self.section}: no setting gave finite scores on the validation windows: {trials}")
        found, settings, kept = best
        self.build(settings)
        restore(self.state(), kept)
        self.tell()
        return FittedRow(self, settings, found, trials)

    def _sequences(self, split: Literal["train", "valid"], number: int, limit: int) -> list[TokenSequence]:
        """As stage `instructions` chooses them."""
        rows = self.task.windows.filter(pl.col("split") == split)["row"].sort().to_numpy()
        if not len(rows):
            raise UserError(f"windows: none of split {split}; the log has too few users, or too short ones")
        return self.layout.sequences(rows, limit, np.random.default_rng([self.params.seed, number]))


@dataclass(frozen=True)
class FittedRow:
    """A row with the best of the settings that were tried; fields as in `training.Fitted`."""

    row: LanguageRow
    settings: dict[str, Any]
    score: float
    trials: list[dict[str, Any]]

    def log_p(self, rows: Sequence[int], title: str = "predictions") -> np.ndarray:
        """Log-probabilities `(N, V)` float32 of the windows whose targets are `rows`."""
        asked = [self.row.asked(prompt) for prompt in prompts(self.row.layout, rows)]
        self.row.tell()
        with without_dropout(self.row.model):
            return score(self.row.model, asked, self.row.layout.answers, title).log_p


def run_row(
    name: str, description: str, make: Callable[[Task, argparse.Namespace], LanguageRow],
    options: Options = lambda parser: None,
) -> None:
    """The main of a row: read, fit, predict all tested windows, write.

    Args:
        name: of its module.
        description: the module's docstring.
        make: the row from the task and the command line.
        options: adds what only this row's command line has.
    """
    parser = parser_of(name, description, LanguageParams)
    add_model(parser)
    options(parser)
    run_with(parser, lambda task, args: make(task, args).fit(),
             lambda fitted, task, wanted: predictions(fitted, wanted), write_row)


def predictions(fitted: FittedRow, wanted: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Table `predictions` of the windows `wanted`, and what stands beside it.

    They are made as the project's own are, with the adapter merged into the weights. `latency_ms` is the median time
    of one window by itself, from the log to log-probabilities, its whole prompt read.
    """
    layout, rows = fitted.row.layout, wanted["row"].to_list()
    before = layout.dropped
    with merged(fitted.row.model):
        frame = table_of(wanted, fitted.log_p(rows))
        dropped = layout.dropped - before
        latency = latency_ms(lambda row: fitted.log_p([row]), rows)
    return frame, {
        "layout": "window" if isinstance(layout, WindowLayout) else "stream", "context": fitted.row.task.context,
        "windows": len(frame), "events_dropped": dropped,
        "trained_targets": fitted.row.targets,
        "trained_parameters": sum(weight.numel() for weight in fitted.row.weights().values()),
        "latency_ms": latency,
        **tuning_facts(fitted.settings, fitted.trials, fitted.score, _valid_windows(fitted.row)),
    }


def write_row(fitted: FittedRow, folder: Path) -> None:
    """The adapter, as PEFT reads it, or its base's record alone; `projector.safetensors` where there is one;
    `settings.json`; all or none."""
    with atomic_folder(folder) as part:
        manifest = read_manifest(fitted.row.folder)
        if isinstance(fitted.row.model, PeftModel):
            save_adapter(fitted.row.model, manifest, part)
        else:
            write_manifest(manifest, part)
        if fitted.row.projector is not None:
            save_file(copied(fitted.row.projector.state_dict()), part / "projector.safetensors")
        write_json(part / "settings.json", fitted.settings)


def _valid_windows(row: LanguageRow) -> int:
    """How many validation targets its trials are scored on."""
    known = sum(behavior < len(row.layout.answers) for each in row.valid_sequences for behavior in each.behaviors)
    return min(row.budget.valid_windows, known)
