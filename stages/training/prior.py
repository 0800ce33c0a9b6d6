"""SFT with a prior: what somebody else finds of a target is added to the logits, so that what it leaves is learned.

The prior is a distribution over whole labels, the loss one over tokens. So each token of a label is shifted by itself,
at the node of the labels' prefix tree where it stands, as in `adjustment.py`, but by this target's own distribution: by
the shifts with which its answers are scored (`model.tree.AnswerTree.shifts`). Without a word of the language model's
the labels are then as likely as the prior has them; it learns a product of experts (Hinton 2002) of which one is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from stages.model.prior import Prior
from stages.model.tree import AnswerTree
from stages.training.adjustment import NO_NODE, Shifts, first_spans


@dataclass(frozen=True)
class PriorAdjustment(Shifts):
    """Shifts at the tokens of targets behind which labels part; `numbers`: a token's node by its target's row and its
    place within the label."""

    numbers: Mapping[tuple[int, int], int]

    @classmethod
    def of(cls, sequences: pl.DataFrame, trained: Sequence[int], prior: Prior) -> "PriorAdjustment":
        """For the targets of `sequences` whose behaviour is in `trained`; the tree is of those behaviours.

        Raises:
            UserError: `prior` has not all of the targets.
        """
        labels = first_spans(sequences)
        behaviors = [behavior for behavior in sorted(trained) if behavior in labels]
        targets = sequences.select(row=pl.col("target_row").explode(), behavior=pl.col("target_behavior").explode())
        targets = targets.filter(pl.col("behavior").is_in(behaviors)).unique().sort("row")
        if targets.is_empty():
            return cls(*Shifts.filled([]), {})
        tree = AnswerTree.build([labels[behavior] for behavior in behaviors])
        children = {source: _children(tree, source) for source in np.unique(tree.step_source).tolist()}
        path = {behavior: tree.step_source[tree.step_answer == place].tolist()
                for place, behavior in enumerate(behaviors)}
        numbers: dict[tuple[int, int], int] = {}
        nodes: list[tuple[np.ndarray, np.ndarray]] = []
        for (row, behavior), log_p in zip(targets.iter_rows(), prior.of(targets["row"].to_numpy()), strict=True):
            shifts = tree.shifts(log_p[behaviors])
            for place, source in enumerate(path[behavior]):
                tokens, steps = children[source]
                if len(tokens) > 1:
                    numbers[row, place] = len(nodes)
                    nodes.append((tokens, shifts[steps]))
        return cls(*Shifts.filled(nodes), numbers)

    def nodes_of(self, behavior: int, tokens: Sequence[int], row: int) -> list[int]:
        """As `LogitAdjustment.nodes_of`, for the target of event `row`."""
        return [NO_NODE if behavior < 0 else self.numbers.get((row, place), NO_NODE) for place in range(len(tokens))]


def _children(tree: AnswerTree, source: int) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that answers go on with behind tree token `source`, and a step that leads to each."""
    steps = np.flatnonzero(tree.step_source == source)
    tokens, first = np.unique(tree.step_target[steps], return_index=True)
    return tokens, steps[first]
