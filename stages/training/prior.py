"""SFT with a prior: what somebody else finds of a target is added to the logits, so that what it leaves is learned.

The prior is a distribution over whole labels, the loss one over tokens. So each token of a label is shifted by itself,
at the node of the labels' prefix tree where it stands, as in `adjustment.py`, but by this target's own distribution:

    shift of child c of node n = log P(c) - the largest log P of n's children

where P(c) is the sum of the probabilities of the labels below c. Without a word of the language model's the labels are
then as likely as the prior has them; it learns a product of experts (Hinton 2002) of which one is given. Predictions
are made with the same shifts (`stages.model.tree`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from stages.model.prior import Prior
from stages.training.adjustment import NO_NODE, Tokens, first_spans

_LEAST = -40.0  # log of a share that is none


@dataclass(frozen=True)
class PriorAdjustment:
    """Shifts of M pairs of a target and a node with two or more children, numbered from 0, as `LogitAdjustment`'s.

    `tokens`, `shifts` (M + 1, K): the children of each and what is added to their logits (nats), filled up with shifts
    of 0; row M, which `NO_NODE` finds as -1, has no other. `numbers`: a pair's number by row and tokens in front.
    """

    tokens: torch.Tensor
    shifts: torch.Tensor
    numbers: Mapping[tuple[int, Tokens], int]

    @classmethod
    def of(cls, sequences: pl.DataFrame, trained: Sequence[int], prior: Prior) -> "PriorAdjustment":
        """For the targets of `sequences` whose behaviour is in `trained`; the tree is of those behaviours.

        Raises:
            UserError: `prior` has not all of the targets.
        """
        found = first_spans(sequences)
        labels = {behavior: found[behavior] for behavior in sorted(trained) if behavior in found}
        targets = sequences.select(row=pl.col("target_row").explode(), behavior=pl.col("target_behavior").explode())
        targets = targets.filter(pl.col("behavior").is_in(list(labels))).unique().sort("row")
        rows, of_row = targets["row"].to_numpy(), targets["behavior"].to_numpy()
        p = np.zeros((len(rows), max(labels, default=0) + 1))
        for at, log_p in enumerate(prior.of(rows)):
            known = min(len(log_p), p.shape[1])
            p[at, :known] = np.exp(log_p[:known])
        numbers: dict[tuple[int, Tokens], int] = {}
        tokens: list[np.ndarray] = []
        shifts: list[np.ndarray] = []
        for node, below in _children(labels).items():
            if len(below) < 2:
                continue
            through = np.flatnonzero(np.isin(of_row, [each for behaviors in below.values() for each in behaviors]))
            mass = np.stack([p[through][:, behaviors].sum(axis=1) for behaviors in below.values()], axis=1)
            with np.errstate(divide="ignore"):
                log_mass = np.maximum(np.log(mass), _LEAST)
            for row, shift in zip(rows[through], log_mass - log_mass.max(axis=1, keepdims=True), strict=True):
                numbers[int(row), node] = len(tokens)
                tokens.append(np.array(list(below)))
                shifts.append(shift)
        width = max(map(len, tokens), default=1)
        all_tokens, all_shifts = np.zeros((len(tokens) + 1, width), np.int64), np.zeros((len(tokens) + 1, width))
        for at, (token, shift) in enumerate(zip(tokens, shifts, strict=True)):
            all_tokens[at, : len(token)], all_shifts[at, : len(shift)] = token, shift
        return cls(torch.from_numpy(all_tokens), torch.from_numpy(all_shifts).float(), numbers)

    def nodes_of(self, behavior: int, tokens: Sequence[int], row: int) -> list[int]:
        """As `LogitAdjustment.nodes_of`, for the target of event `row`."""
        if behavior < 0:
            return [NO_NODE] * len(tokens)
        tokens = tuple(tokens)
        return [self.numbers.get((row, tokens[:end]), NO_NODE) for end in range(len(tokens))]

    def at(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `LogitAdjustment.at`."""
        return self.tokens.to(nodes.device)[nodes], self.shifts.to(nodes.device)[nodes]


def _children(labels: Mapping[int, Tokens]) -> dict[Tokens, dict[int, list[int]]]:
    """The prefix tree: the behaviours below each next token of a node, by the tokens in front of it."""
    nodes: dict[Tokens, dict[int, list[int]]] = {}
    for behavior, tokens in labels.items():
        for at, token in enumerate(tokens):
            nodes.setdefault(tokens[:at], {}).setdefault(token, []).append(behavior)
    return nodes
