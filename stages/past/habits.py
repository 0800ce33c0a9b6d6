"""The model of habits: what a person does next, by all that the person did before and by what people do."""

from dataclasses import dataclass

import numpy as np

from stages.past.counted import of_candidates
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
        return of_candidates(
            past, rows, lambda counted, at: self.weights.log_p(self.people.inputs_of(past, counted, at)))
