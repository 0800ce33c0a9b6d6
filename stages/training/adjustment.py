"""The logit-adjusted loss of Menon et al. 2021 (arXiv 2007.07314, Section 4.2) for labels of several tokens.

A loss that adds τ log π(y) to the score of label y leaves the model with scores that the prior π is no part of; τ = 1
is the balanced softmax of Ren et al. 2020 (arXiv 2007.10740). Over whole labels it would need every candidate's score
at every target. So each token of a label is adjusted by itself, at the node of the labels' prefix tree where it stands:

    shift of child c of node n = τ log((π(c) / m(c)) / (π(n) / m(n)))

where π(c) is the sum of the shares of the m(c) labels below c, and π(n) and m(n) are those of all children of n. With
it labels that are equally frequent are not shifted, nor is the child of a node with one child. The shifts along a label
sum to τ log π(y) and a constant.

This is the tree-factored form, and not identical to the loss over whole labels: each token is normalised by itself,
over the model's whole vocabulary. With τ = 1 and a prompt that says nothing, the best model finds all labels equally
likely, as with the loss over whole labels.

Labels that are not trained on have no part in π, nor have those that are no target of a training sequence, whose tokens
nobody knows: a token that only they go on with is like any other token of the vocabulary, and not shifted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from stages.common.errors import UserError

NO_NODE = -1
TARGETS = ("input_ids", "target_start", "target_end", "target_behavior")

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Shifts:
    """Shifts at nodes that have two or more children, numbered from 0 to M - 1.

    `tokens`, `shifts` (M + 1, K): the children of each node and what is added to their logits (nats), filled up with
    shifts of 0; row M, which `NO_NODE` finds as -1, has no other.
    """

    tokens: torch.Tensor
    shifts: torch.Tensor

    @staticmethod
    def filled(nodes: Sequence[tuple[Sequence[int] | np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
        """`tokens` and `shifts` of each node's children and their shifts."""
        tokens = np.zeros((len(nodes) + 1, max((len(own) for own, _ in nodes), default=1)), dtype=np.int64)
        shifts = np.zeros(tokens.shape)
        for number, (own, values) in enumerate(nodes):
            tokens[number, : len(own)], shifts[number, : len(own)] = own, values
        return torch.from_numpy(tokens), torch.from_numpy(shifts).float()

    def at(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens and shifts (N, K) at nodes (N,), on their device, as `objectives.completion` takes them."""
        return self.tokens.to(nodes.device)[nodes], self.shifts.to(nodes.device)[nodes]


@dataclass(frozen=True)
class LogitAdjustment(Shifts):
    """The adjustment to the labels' shares: `numbers` is a node's number by the tokens in front of it within the label,
    `labels` the tokens of each behaviour in the tree, `names` those of all behaviours."""

    numbers: Mapping[Tokens, int]
    labels: Mapping[int, Tokens]
    names: Sequence[str]

    @classmethod
    def of(
        cls, sequences: pl.DataFrame, vocabulary: pl.DataFrame, trained: Sequence[int], tau: float
    ) -> "LogitAdjustment":
        """Of the behaviours numbered `trained` that are targets in the training `sequences`; π is their `share`.

        Raises:
            UserError: one of them has a share of 0.
        """
        names, shares, labels = vocabulary["behavior"].to_list(), vocabulary["share"].to_list(), first_spans(sequences)
        labels = {behavior: labels[behavior] for behavior in sorted(trained) if behavior in labels}
        for behavior in labels:
            if not shares[behavior] > 0:
                raise UserError(
                    f"sft.logit_adjustment: {tau:g}: {names[behavior]!r} has a share of {shares[behavior]} in the "
                    "vocabulary; every label that is trained on needs one above 0"
                )
        nodes = {node: masses for node, masses in children(labels, shares).items() if len(masses) > 1}
        counts = children(labels, [1.0] * len(shares))
        filled = []
        for node, masses in nodes.items():
            mass, labels_below = (np.array(list(each.values())) for each in (masses, counts[node]))
            filled.append((list(masses), tau * np.log(mass / mass.sum() * labels_below.sum() / labels_below)))
        numbers = {node: number for number, node in enumerate(nodes)}
        return cls(*cls.filled(filled), numbers, labels, names)

    def nodes_of(self, behavior: int, tokens: Sequence[int], row: int = -1) -> list[int]:
        """The node at which each of a target's tokens stands; `NO_NODE` where nothing is shifted, as in conversations.

        Which event it is (`row`) does not count.

        Raises:
            UserError: the behaviour has other tokens elsewhere.
        """
        if behavior < 0:
            return [NO_NODE] * len(tokens)
        tokens = tuple(tokens)
        if (known := self.labels.get(behavior, tokens)) != tokens:
            raise UserError(
                f"sft.logit_adjustment: {self.names[behavior]!r} has the tokens {list(known)} in one target and "
                f"{list(tokens)} in another; make the sequences again (`dvc repro -f instructions`), or set it to 0"
            )
        return [self.numbers.get(tokens[:end], NO_NODE) for end in range(len(tokens))]


def first_spans(sequences: pl.DataFrame) -> dict[int, Tokens]:
    """Tokens of the first target of each behaviour."""
    found: dict[int, Tokens] = {}
    for ids, starts, ends, behaviors in sequences.select(TARGETS).iter_rows():
        for start, end, behavior in zip(starts, ends, behaviors, strict=True):
            if behavior not in found:
                found[behavior] = tuple(ids[start:end])
    return found


def children(labels: Mapping[int, Tokens], shares: Sequence[float]) -> dict[Tokens, dict[int, float]]:
    """The prefix tree: the shares below each next token of a node, by the tokens in front of it.

    No label is the beginning of another: their terminators see to that.
    """
    nodes: dict[Tokens, dict[int, float]] = {}
    for behavior, tokens in labels.items():
        for at, token in enumerate(tokens):
            masses = nodes.setdefault(tokens[:at], {})
            masses[token] = masses.get(token, 0.0) + shares[behavior]
    return nodes
