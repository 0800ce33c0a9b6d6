"""How baselines are trained from nothing: passes, validations between them, settings tried in turn."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from stages.baselines.fitting.sequences import NO_LABEL, Batch, Sequences
from stages.baselines.fitting.settings import Budget, Trained, choices
from stages.common.console import Track, track
from stages.common.device import device
from stages.common.errors import UserError
from stages.training.loop import Validations, train

_WINDOWS_AT_ONCE = 1024
_LARGEST_GRADIENT = 5.0


class Recommender(nn.Module, ABC):
    """A baseline trained from nothing."""

    windows_per_validation: int | None = None
    """In place of the budget's."""

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """The objective's mean over what a batch of an epoch has labels for; the generator draws on the CPU."""

    @abstractmethod
    def log_p(self, batch: Batch) -> torch.Tensor:
        """Log-probabilities `(B, V)` of what follows each sequence."""

    def parameter_groups(self, settings: dict[str, Any]) -> list[dict[str, Any]]:
        """What the optimizer trains: one group, unless a part has a rate of its own, which its group gives as `lr`."""
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def epoch(self, sequences: Sequences, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """One pass over the log: every training target once, if no baseline says else."""
        return sequences.epoch(batch_size, rng)


Model = TypeVar("Model", bound=Recommender)


@dataclass(frozen=True)
class Fitted(Generic[Model]):
    """The model of the best of the settings that were tried, with the weights of its best validation.

    Attributes:
        score: mean reciprocal rank on the validation windows.
        trials: every setting tried, its score and, as `epoch`, the number of its best validation.
        valid_windows: how many the score is of: those drawn whose behaviour is in the vocabulary.
        facts: what else the metrics should say, such as what names were embedded by.
    """

    model: Model
    settings: dict[str, Any]
    score: float
    trials: list[dict[str, Any]]
    valid_windows: int
    facts: dict[str, Any] = field(default_factory=dict)


def fit(
    title: str, make: Callable[[dict[str, Any]], Model], sequences: Sequences, values: Trained, budget: Budget,
    seed: int,
) -> Fitted[Model]:
    """Train with each of the budget's settings until validation stops improving; the best of all is kept.

    Mean reciprocal rank chooses: what these baselines are published to be chosen by is a rank, and some of them give
    scores that are no log-likelihoods. `make` draws a model's weights from torch's seed.

    Raises:
        UserError: no setting ever gave finite scores.
    """
    rows = sequences.valid_rows(budget.valid_windows, seed)
    wanted = choices(values, budget.trials, seed)
    best, trials = None, []
    with track(title, sum(each["epochs"] for each in wanted)) as progress:
        for number, settings in enumerate(wanted):
            torch.manual_seed(seed)
            model = make(settings).to(device())
            score, epoch = _train(model, settings, sequences, rows, budget, seed, progress, number)
            trials.append({**settings, "score": score, "epoch": epoch})
            if math.isfinite(score) and (best is None or score > best[0]):
                best = score, model, settings
    if best is None:
        raise UserError(f"{title}: no setting gave finite scores on the validation windows: {trials}")
    score, model, settings = best
    known = int((sequences.windows(rows).label[:, -1] != NO_LABEL).sum())
    return Fitted(model.eval(), settings, score, trials, known)


@torch.inference_mode()
def predict(model: Recommender, sequences: Sequences, rows: np.ndarray) -> np.ndarray:
    """Log-probabilities `(N, V)` float32 of the windows whose targets are `rows`."""
    model.eval()
    at_once = sequences.as_many_events(_WINDOWS_AT_ONCE)
    parts = [
        model.log_p(sequences.windows(rows[start : start + at_once]).to(device())).float().cpu().numpy()
        for start in range(0, len(rows), at_once)
    ]
    return np.concatenate(parts) if parts else np.empty((0, sequences.size), dtype=np.float32)


def reciprocal_rank(model: Recommender, sequences: Sequences, rows: np.ndarray) -> float:
    """Mean reciprocal rank over those windows whose behaviour is in the vocabulary."""
    label = sequences.windows(rows).label[:, -1].numpy()
    known = label != NO_LABEL
    return mean_reciprocal_rank(predict(model, sequences, rows[known]), label[known])


def mean_reciprocal_rank(log_p: np.ndarray, label: np.ndarray) -> float:
    """Of the labels `(N,)` among the V of `log_p` `(N, V)`; not a number where a value is not finite, or N is 0.

    Ties count against the label, so that a constant earns nothing.
    """
    if not len(label) or not np.isfinite(log_p).all():
        return float("nan")
    own = log_p[np.arange(len(label)), label]
    return float((1 / (log_p >= own[:, None]).sum(axis=1)).mean())


def trained_parameters(model: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _train(
    model: Recommender, settings: dict[str, Any], sequences: Sequences, rows: np.ndarray, budget: Budget, seed: int,
    progress: Track, number: int,
) -> tuple[float, int]:
    """The best score, if any is a number, and which validation it is of (1 and up); the model ends as it was there."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        model.parameter_groups(settings), lr=settings["learning_rate"], betas=(0.9, 0.98),
        weight_decay=settings["weight_decay"],
    )
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    passes = _passes(len(sequences.train_rows()), model.windows_per_validation or budget.windows_per_validation)
    found = Validations(budget.patience, greater_is_better=True)
    rounds = (
        itertools.chain.from_iterable(model.epoch(sequences, settings["batch_size"], rng) for _ in range(passes))
        for _ in range(settings["epochs"])
    )

    def losses(batch: Batch) -> Iterator[torch.Tensor]:
        model.train()
        yield model.loss(batch.to(device()), generator)

    def validate() -> float:
        score = reciprocal_rank(model, sequences, rows)
        progress.advance(1, f"setting {number + 1}, validation {len(found.values) + 1}: {score:.4f}")
        return score

    train(rounds, losses, weights, optimizer, lambda step: min(1.0, (step + 1) / max(1, settings["warmup"])),
          _LARGEST_GRADIENT, validate, found, model.state_dict)
    progress.advance(settings["epochs"] - len(found.values))
    return found.best, sum(step <= found.best_step for step in found.values)


def _passes(windows: int, wanted: int) -> int:
    """Whole passes over `windows` (1 or more) training windows that fit into `wanted`; at least one."""
    return max(1, wanted // windows)
