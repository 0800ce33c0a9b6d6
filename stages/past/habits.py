"""The model of habits: what a person does next, by all that the person did before and by what people do."""

from dataclasses import dataclass

import numpy as np

from stages.past.population import Population
from stages.past.weights import Weights
from stages.past.whole import WholePast
from stages.windows.past import Past


@dataclass(frozen=True)
class Habits:
    """A fitted model.

    Attributes:
        weights: of the network.
        people: what the network is told of everybody.
        whole: the baseline of counts on the same chain, which a pool may want beside the network.
    """

    weights: Weights
    people: Population
    whole: WholePast

    def log_p(self, past: Past, rows: np.ndarray) -> list[np.ndarray]:
        """Log-probabilities of the candidates of each of `rows` `(W,)`, V and the person's own: float32 each."""
        order = np.argsort(rows, kind="stable")
        found: list[np.ndarray] = []
        for inputs in self.people.inputs_of(past, rows[order]):
            log_p = self.weights.log_p(inputs)
            found += [row[allowed] for row, allowed in zip(log_p, inputs.allowed, strict=True)]
        return [found[place] for place in np.argsort(order)]
