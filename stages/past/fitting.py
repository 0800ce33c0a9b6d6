"""Fitting the model of habits: its windows, what of them is hidden, and when to stop."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
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
# cells, of a window and a candidate: 64 bytes of half floats each, and a tenth more
_CELLS = 16_000_000  # in training: 1.2 GB
_VALID_CELLS, _VALID_WINDOWS = 4_000_000, 8_000  # of validation: 0.5 GB, of floats
_CELLS_AT_ONCE = 500_000  # that the network reads: 0.3 GB with what gradients need
_CHAIN_WINDOWS = 4_000_000  # training windows behind the chain: more would change little, and a log may have billions
_SAMPLE_CELLS, _SAMPLE_WINDOWS = 1_000_000, 20_000  # whose numbers say mean and scale
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
    rows = _drawn(windows, "train", _few(settings.train_windows, _CELLS, past.size), rng)
    batch = _training(people, past, windows, vocabulary, rows, settings, rng)
    tested = _drawn(windows, "valid", _few(_VALID_WINDOWS, _VALID_CELLS, past.size), rng)
    valid = [Batch.of(people.inputs_of(past, count(past, tested[piece]), tested[piece]))
             for piece in pieces(past, tested)]
    sample = rng.permutation(len(batch))[: _few(_SAMPLE_WINDOWS, _SAMPLE_CELLS, past.size)]
    network.standardise(batch.numbers.index_select(0, torch.from_numpy(sample)).float())

    def validate() -> float:
        network.eval()
        with torch.inference_mode():
            lost, of = zip(*((float(_loss(network(each), each.label)), len(each))
                             for piece in valid for each in piece.parts(_CELLS_AT_ONCE)), strict=True)
        network.train()
        return float(np.average(lost, weights=of))

    rounds = np.diff(np.linspace(0, settings.steps, min(settings.validations, settings.steps) + 1).astype(np.int64))
    # a prior says less beside more windows; no step takes more than a tenth of a weight, however few there are
    moment_decay = min(settings.moment_weight_decay * _DECAYED / len(batch), 0.1 / settings.moment_learning_rate)
    groups = network.groups(settings.weight_decay, moment_decay, settings.learning_rate, settings.moment_learning_rate)
    validations = Validations(settings.patience)
    with track("habits", settings.steps) as progress:
        train(
            _rounds(batch, settings.batch_size, rounds, rng), partial(_losses, network), network.parameters(),
            torch.optim.AdamW(groups, fused=True), lambda step: warmup_cosine(step, settings.steps, 0.1, 0.01),
            _LARGEST_GRADIENT, validate, validations, network.state_dict,
            after_step=lambda loss: progress.advance(note=f"loss {loss:.3f}"),
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
    places = len(people.markov.places)
    batch = Batch.empty(len(rows), past.size, len(NAMES), len(moment_sizes(past.size, places)))
    for piece in pieces(past, rows):
        counted = count(past, rows[piece])
        hidden = (rng.random(len(counted.label)) < settings.left_out)[:, None] & (
            rng.random(counted.outside.shape) < _LEFT_OUT)
        for part, each in _without(counted, hidden).parts():
            at = slice(piece.start + part.start, piece.start + part.start + len(each.label))
            of_part = {name: codes[at] for name, codes in contexts.items()}
            # what a person did outside the vocabulary is no label here; `left_out` says what such candidates are worth
            batch.put(at, people.inputs(each, of_part, log_markov[at]))
    return batch


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


def _few(most: int, cells: int, size: int) -> int:
    """So many windows that they have at most so many cells of a candidate each, at least one."""
    return max(1, min(most, cells // size))


def _rounds(batch: Batch, size: int, rounds: np.ndarray, rng: np.random.Generator) -> Iterator[Iterator[Batch]]:
    """Each the batches between two validations, so many; every window once before any comes again."""
    order = np.empty(0, np.int64)

    def of_round(steps: int) -> Iterator[Batch]:
        nonlocal order
        for _ in range(steps):
            if len(order) < min(size, len(batch)):
                order = rng.permutation(len(batch))
            chosen, order = order[:size], order[size:]
            yield batch.of_windows(torch.from_numpy(chosen))

    for steps in rounds:
        yield of_round(steps)


def _losses(network: Network, batch: Batch) -> Iterator[torch.Tensor]:
    """The batch's mean loss in parts, so that one of many candidates needs no more memory than one of few."""
    known = (batch.label != NONE).sum()
    for part in batch.parts(_CELLS_AT_ONCE):
        yield _loss(network(part), part.label) * ((part.label != NONE).sum() / known.clamp_min(1))


def _loss(log_p: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Mean log-loss of the windows whose label is a candidate; 0 where none is."""
    return nn.functional.nll_loss(log_p, label, ignore_index=NONE, reduction="sum") / (label != NONE).sum().clamp_min(1)
