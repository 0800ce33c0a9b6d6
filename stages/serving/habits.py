"""What the model of habits, and counting, say of one person at a time and place: the batch path over one window."""

from collections.abc import Collection

import numpy as np

from stages.past.habits import Habits
from stages.past.parts import PAST
from stages.serving.past import Circumstances, PersonalPast


def log_p(habits: Habits, past: PersonalPast, at: Circumstances, names: Collection[str]) -> dict[str, np.ndarray]:
    """Log-probabilities `(C,)` of the person's candidates, float32, by `names`: "habits" and `PAST` are known."""
    counted, contexts = past.counted(at), past.contexts(at)
    log_markov = habits.people.markov.log_p_in(contexts)
    found = {}
    if "habits" in names:
        found["habits"] = habits.weights.log_p(habits.people.inputs(counted, contexts, log_markov))[0]
    if PAST in names:
        found[PAST] = habits.whole.log_p_of(counted, log_markov)[0]
    return found
