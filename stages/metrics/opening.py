"""A system over numbers has none for what one person alone does: its distribution is opened to the person's candidates.

The mass that a window's own candidates get together is how often the person did any of them, smoothed by a share that
validation windows choose, as by `IMAGINED` more events:

    P(own) = (events of own candidates + IMAGINED * share) / (events + IMAGINED)

They divide it by how often the person did each, one imagined event added to each; the vocabulary keeps the rest in its
proportions. A window without own candidates stays as it is, to the bit.
"""

import numpy as np
from scipy.optimize import minimize_scalar

from stages.metrics.candidates import OUTSIDE, OwnCandidates

IMAGINED = 10
"""Events. With 3 or 10 training people, or 8 behaviours of the tail without any, 10 is within .002 nats of the best of
1 to 100 in whether a window is of an own candidate, on other users of Foursquare and of the simulated log; the share
alone, whatever the person did, is .001 to .073 behind."""

_PRIOR = (0.1, 0.9)  # imagined windows of an own candidate, and of the vocabulary
_LEAST = 1e-4


def choose_share(own: OwnCandidates, named: np.ndarray) -> float:
    """The share of least log-loss on validation windows as they come, above 0 and below 1.

    The log-loss is convex in it, and the vocabulary's own probabilities do not matter. Beside the windows stands one
    imagined, a tenth of it of an own candidate, which is all there is where there are none. Four digits are kept.

    Args:
        named: whether the window's behaviour is among its candidates `(N,)`; the others have no log-loss.
    """
    there = named & (own.size > 0)
    part, hit = own.part(there), own.truth[there] != OUTSIDE

    def loss(share: float) -> float:
        mass = mass_of_own(part, share)
        return -(np.log(np.where(hit, mass, 1 - mass)).sum() + _PRIOR[0] * np.log(share)
                 + _PRIOR[1] * np.log(1 - share))

    found = minimize_scalar(loss, bounds=(_LEAST, 1 - _LEAST), method="bounded", options={"xatol": 1e-6})
    return float(f"{found.x:.4g}")


def mass_of_own(own: OwnCandidates, share: float) -> np.ndarray:
    """What each window's own candidates get together `(N,)`, below 1."""
    return (own.count.sum(axis=1) + IMAGINED * share) / (own.before + IMAGINED)


def opened(log_p: np.ndarray, own: OwnCandidates, share: float) -> np.ndarray:
    """Log-probabilities `(N, V)` of the vocabulary become `(N, V + E)`, -inf in a slot that is no candidate."""
    candidate, has, mass = own.there, own.size > 0, mass_of_own(own, share)
    weight = np.where(candidate, own.count + 1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        behind = np.where(candidate, np.log(mass[:, None] * weight / weight.sum(axis=1, keepdims=True)), -np.inf)
    wide = np.concatenate([log_p, behind.astype(log_p.dtype)], axis=1)
    wide[has, : log_p.shape[1]] += np.log1p(-mass[has, None])
    return wide
