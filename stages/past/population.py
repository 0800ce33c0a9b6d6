"""What the people of training do: what the model of habits compares a person with, and tells its network."""

from dataclasses import dataclass

import numpy as np

from stages.past.counted import Counted
from stages.past.counting import Markov
from stages.past.numbers import moments, numbers
from stages.past.weights import Inputs
from stages.windows.past import Past


@dataclass(frozen=True)
class Population:
    """People of training.

    Attributes:
        markov: their chain.
        events: how many events of theirs there are.
    """

    markov: Markov
    events: int

    @property
    def share(self) -> np.ndarray:
        """The behaviours' shares of their events `(V,)`, in the vocabulary's order."""
        return self.markov.share

    @property
    def floor(self) -> float:
        """Log share of a behaviour that nobody of them did: less than that of one done once."""
        return -float(np.log(self.events + 1))

    def inputs(self, counted: Counted, contexts: dict[str, np.ndarray], log_markov: np.ndarray) -> Inputs:
        """What the network reads of windows that were counted.

        Args:
            contexts: of the windows in the chain.
            log_markov: log-probabilities of the chain `(W, V)`, perhaps of one that these windows had no part in.
        """
        size, places = len(self.share), len(self.markov.places)
        return Inputs(
            numbers(counted, log_markov, np.log(self.share), self.floor),
            moments(counted, np.minimum(contexts["place"], places), size, places),
            counted.allowed, counted.outside, counted.label,
        )

    def inputs_of(self, past: Past, counted: Counted, rows: np.ndarray) -> Inputs:
        """What the network reads of the windows of `rows`, which were `counted`."""
        contexts = self.markov.contexts(past, rows)
        return self.inputs(counted, contexts, self.markov.log_p_in(contexts))
