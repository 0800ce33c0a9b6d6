"""Fitting the model of habits: its windows, what of them is hidden, and when to stop."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from stages.common.console import track
from stages.common.draws import stream
from stages.past.counted import Counted, count, pieces
from stages.past.counting import Markov, evenly, rows_of
from stages.past.habits import Habits
from stages.past.network import Batch, Network
from stages.past.numbers import NAMES, moment_sizes
from stages.past.population import Population
from stages.past.settings import Habits as Settings
from stages.past.whole import WholePast
from stages.training.loop import Validations, train, warmup_cosine
from stages.windows.past import NONE, Past

_FOLDS = 5
_CELLS = 16_000_000  # of a window and a candidate in training: 1 GB of half floats
_VALID_WINDOWS = 8_000
_CHAIN_WINDOWS = 4_000_000  # training windows behind the chain: more would change little, and a log may have billions
_SAMPLE = 20_000  # training windows whose numbers say mean and scale
_DECAYED = 100_000  # training windows for which `moment_weight_decay` stands
_LARGEST_GRADIENT = 5.0
_LEFT_OUT = 0.3


def fit(
    past: Past, windows: pl.DataFrame, vocabulary: pl.DataFrame, settings: Settings, seed: int
) -> tuple[Habits, dict[str, Any]]:
    """The model after the validation of least log-loss on validation users, and what the fitting took.

    The chain that a training window is told of counts other people only, in folds by user: with its own events in it
    the chain would look better in training than it is. In some windows some behaviours are taken for such as nobody in
    training has done (`left_out`), so that the model learns what those are worth who are known by their person alone.
    """
    windows = _fewer(windows)
    markov = Markov().fit(past, windows, vocabulary)
    people = Population(markov, int(vocabulary["train_events"].sum()))
    torch.manual_seed(seed)
    network = Network(len(NAMES), sum(moment_sizes(past.size, len(markov.places))), past.size, settings.hidden)
    rng = stream(seed, "habits windows")
    rows = _drawn(windows, "train", min(settings.train_windows, _CELLS // past.size), rng)
    batch = _training(people, past, windows, vocabulary, rows, settings, rng)
    tested = _drawn(windows, "valid", _VALID_WINDOWS, rng)
    valid = [Batch.of(people.inputs_of(past, count(past, tested[piece]), tested[piece]))
             for piece in pieces(past, tested)]
    network.standardise(batch.numbers[torch.from_numpy(rng.permutation(len(batch))[:_SAMPLE])].float())

    def validate() -> float:
        network.eval()
        with torch.inference_mode():
            lost, of = zip(*((float(_loss(network(each), each.label)), len(each)) for each in valid), strict=True)
        network.train()
        return float(np.average(lost, weights=of))

    rounds = min(settings.validations, settings.steps)
    steps_of_round = settings.steps // rounds
    # a prior says less beside more windows; no step takes more than a tenth of a weight, however few there are
    moment_decay = min(settings.moment_weight_decay * _DECAYED / len(batch), 0.1 / settings.moment_learning_rate)
    groups = network.groups(settings.weight_decay, moment_decay, settings.learning_rate, settings.moment_learning_rate)
    validations = Validations(settings.patience)
    with track("habits", rounds * steps_of_round) as progress:
        train(
            _rounds(batch, settings.batch_size, steps_of_round, rounds, rng),
            lambda each: [_loss(network(each), each.label)], network.parameters(), torch.optim.AdamW(groups),
            lambda step: warmup_cosine(step, rounds * steps_of_round, 0.1, 0.01), _LARGEST_GRADIENT, validate,
            validations, network.state_dict, after_step=lambda loss: progress.advance(note=f"loss {loss:.3f}"),
        )
    return Habits(network.weights(), people, WholePast().fit_on(markov, past, windows, vocabulary)), {
        "trained_targets": len(batch), "trained_parameters": sum(weight.numel() for weight in network.parameters()),
        "valid_log_loss": validations.best, "steps": validations.best_step,
    }


def _training(
    people: Population, past: Past, windows: pl.DataFrame, vocabulary: pl.DataFrame, rows: np.ndarray,
    settings: Settings, rng: np.random.Generator,
) -> Batch:
    train = windows.filter(split="train").sort("row")
    user = np.unique(past.first[train["row"].to_numpy()])
    fold_of = rng.permutation(len(user)) % _FOLDS
    contexts = people.markov.contexts(past, rows)
    log_markov = np.empty((len(rows), past.size), np.float32)
    of_train, of_row = (fold_of[np.searchsorted(user, past.first[each])] for each in (train["row"].to_numpy(), rows))
    for fold in range(min(_FOLDS, len(user))):
        chain = Markov().fit(past, train.filter(pl.Series(of_train != fold)), vocabulary)
        chain.concentration = {level: people.markov.concentration[level] for level in chain.counts}
        log_markov[of_row == fold] = chain.log_p(past, rows[of_row == fold])
    parts = []
    for piece in pieces(past, rows):
        counted = count(past, rows[piece])
        hidden = (rng.random(len(counted.label)) < settings.left_out)[:, None] & (
            rng.random(counted.outside.shape) < _LEFT_OUT)
        of_piece = {key: each[piece] for key, each in contexts.items()}
        part = Batch.of(people.inputs(_without(counted, hidden), of_piece, log_markov[piece]))
        # what a person did outside the vocabulary is no label here; `left_out` says what such candidates are worth
        parts.append(Batch(part.numbers[:, : past.size].half(), part.moments, part.allowed[:, : past.size],
                           part.outside[:, : past.size], part.label))
    return Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in Batch.__dataclass_fields__))


def _without(counted: Counted, hidden: np.ndarray) -> Counted:
    """As if nobody in training had done the `hidden` candidates: only who did one before has it as a candidate."""
    allowed = counted.allowed & ~(hidden & np.isinf(counted.since))
    known = np.take_along_axis(allowed, np.maximum(counted.label, 0)[:, None], axis=1)[:, 0]
    return replace(counted, allowed=allowed, outside=counted.outside | hidden,
                   label=np.where(known, counted.label, NONE))


def _fewer(windows: pl.DataFrame) -> pl.DataFrame:
    """At most `_CHAIN_WINDOWS` training windows, evenly from first to last; all others."""
    train = windows.filter(split="train").sort("row")
    if len(train) <= _CHAIN_WINDOWS:
        return windows
    return pl.concat([train[evenly(np.arange(len(train)), _CHAIN_WINDOWS)], windows.filter(pl.col("split") != "train")])


def _drawn(windows: pl.DataFrame, split: str, most: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.permutation(rows_of(windows, split))[:most])


def _rounds(batch: Batch, size: int, steps: int, rounds: int, rng: np.random.Generator) -> Iterator[Iterator[Batch]]:
    """Each the batches between two validations; every window once before any comes again."""
    order = np.empty(0, np.int64)

    def of_round() -> Iterator[Batch]:
        nonlocal order
        for _ in range(steps):
            if len(order) < min(size, len(batch)):
                order = rng.permutation(len(batch))
            chosen, order = order[:size], order[size:]
            yield batch[torch.from_numpy(chosen)]

    for _ in range(rounds):
        yield of_round()


def _loss(log_p: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Mean log-loss of the windows whose label is a candidate; 0 where none is."""
    return nn.functional.nll_loss(log_p, label, ignore_index=NONE, reduction="sum") / (label != NONE).sum().clamp_min(1)
