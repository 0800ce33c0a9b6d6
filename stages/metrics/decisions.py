"""How a model's probabilities are used: τ of logit adjustment and a temperature, both chosen on validation windows."""

import numpy as np
import polars as pl
from scipy.optimize import minimize_scalar

from stages.metrics.adjust import adjusted, tempered
from stages.metrics.candidates import OUTSIDE
from stages.metrics.settings import Evaluate
from stages.metrics.splits import Split, read_log_p, with_log_p

TAUS = tuple(eighth / 8 for eighth in range(17))
TEMPERATURES = (0.05, 20.0)
"""Least and greatest temperature that validation may choose."""

_GAIN = 1e-6  # in nats, below which a better log-loss is rounding


def choose_tau(valid: Split, share: np.ndarray, evaluate: Evaluate) -> float:
    """`evaluate.tau`, or the one of `TAUS` with the best mean accuracy over behaviours on `valid`, the balanced set.

    On few windows many τ share the best accuracy. Of those it is the one with the least log-loss, averaged over
    behaviours, which is smooth in τ; then the least. 0 where no window's behaviour is in the vocabulary.
    """
    if evaluate.tau != "validation":
        return evaluate.tau
    valid = valid.part(_in_vocabulary(valid))
    if not len(valid.label):
        return 0.0
    windows_of_each = np.bincount(valid.label, minlength=len(share))
    present = windows_of_each > 0

    def mean_over_behaviors(values: np.ndarray) -> float:
        sums = np.bincount(valid.label, weights=values, minlength=len(share))
        return (sums[present] / windows_of_each[present]).mean()

    def order(tau: float) -> tuple[float, float, float]:
        windows = valid.moved(adjusted(valid.log_p, share, tau)).outcomes()
        accuracy, loss = mean_over_behaviors(windows.hit), mean_over_behaviors(windows.surprise)
        # what differs by rounding only (to float32, in the loss) is equal
        return -round(accuracy, 9), round(loss, 6), tau

    return min(TAUS, key=order)


def cross_fitted(natural: Split, balanced: Split, share: np.ndarray, evaluate: Evaluate) -> tuple[Split, Split]:
    """Validation splits after logit adjustment, each user's windows with the τ that other users' windows chose.

    A τ scored on the windows that chose it is never worse than 0 there, so the users are dealt into two halves by turns
    in the order of their pseudonyms: each half's windows, of both splits, get `choose_tau` the other half's `balanced`
    windows, or of all `balanced` windows where the other half has none of a behaviour in the vocabulary.
    """
    first = first_half(natural.user, balanced.user)
    moved = [split.log_p.copy() for split in (natural, balanced)]
    for half in (True, False):
        others = balanced.part(np.isin(balanced.user, first) != half)
        tau = choose_tau(others if _in_vocabulary(others).any() else balanced, share, evaluate)
        for split, log_p in zip((natural, balanced), moved, strict=True):
            own = np.isin(split.user, first) == half
            log_p[own] = adjusted(split.log_p[own], share, tau)
    return natural.moved(moved[0]), balanced.moved(moved[1])


def first_half(*users: np.ndarray) -> np.ndarray:
    """Every other one of the users of validation windows, in the order of their pseudonyms; the rest is the other half.

    What one half chooses is scored on the other.
    """
    return np.unique(np.concatenate(users))[::2]


def decided(predictions: pl.DataFrame, share: np.ndarray, tau: float) -> pl.DataFrame:
    """Table `predictions`, open where it can be, after logit adjustment with `tau`; `share` as in `adjusted`."""
    if not tau or not predictions.height:
        return predictions
    return with_log_p(predictions, adjusted(read_log_p(predictions), share, tau))


def choose_temperature(valid: Split, evaluate: Evaluate) -> float:
    """`evaluate.temperature`, or the one within `TEMPERATURES` of least log-loss on `valid`, the natural set.

    The log-loss is convex in 1 / T, so a bounded scalar search finds it (Guo et al. 2017, arXiv 1706.04599, Section
    4.2). Four digits are kept. 1 where no window's behaviour is a candidate, or nothing is better.
    """
    if evaluate.temperature != "validation":
        return evaluate.temperature
    valid = valid.part(valid.label != OUTSIDE)
    if not len(valid.label):
        return 1.0

    def loss(temperature: float) -> float:
        return float(valid.moved(tempered(valid.log_p, temperature)).outcomes().surprise.mean())

    # over log T: 1 / T alone would search among small temperatures nearly all the time
    found = minimize_scalar(lambda log_t: loss(np.exp(log_t)), bounds=np.log(TEMPERATURES), method="bounded")
    temperature = float(f"{np.exp(found.x):.4g}")
    return temperature if loss(temperature) < loss(1.0) - _GAIN else 1.0


def _in_vocabulary(split: Split) -> np.ndarray:
    return (split.label != OUTSIDE) & (split.label < split.size)
