"""Is a row different from another? Sign flips over users, and Holm's correction for several rows."""

from collections.abc import Sequence

import numpy as np

from stages.metrics.registry import Metric
from stages.metrics.sums import UserSums, contributions, differing, swapped

EXACT_USERS = 12
"""Up to as many users that differ, every swap is tried (2¹² of them) instead of random ones."""

# differences of sums taken in another order are no differences
_ROUNDING = 1e-10
# numbers in a block of signs: 32 MB
_BLOCK = 4_000_000


def random_signs(flips: int, users: int, rng: np.random.Generator) -> np.ndarray:
    """+1 or -1 a user, `(flips, users)` int8: -1 swaps the user's predictions of the two rows."""
    return (2 * rng.integers(2, size=(flips, users), dtype=np.int8) - 1).astype(np.int8)


def paired_test(metric: Metric, pairs: Sequence[tuple[UserSums, UserSums]], signs: np.ndarray) -> float | None:
    """Two-sided p of the paired permutation test over users; None where nothing is measured.

    Were the two rows' predictions exchangeable, swapping one user's (in all repetitions together) would change
    nothing. p is the share of swaps whose mean difference over the repetitions is at least as far from 0, with 1
    added to both counts when the swaps are random (Phipson & Smyth 2010, arXiv 1603.05766). Means over windows and
    behaviours are sums over users, whose signs flip; `natural.prec_w` and `natural.ece` are computed again after each
    swap.

    It tests these trained models, not the settings: that another seed would have given other models is in the crossed
    bootstrap's interval and not in p. Where training is noisy, two equal settings get a small p too often.

    Args:
        pairs: both rows' sums at each repetition that they share, on the same windows.
        signs: of every user of the study, from `random_signs`.
    """
    measured, active = _measured(metric, pairs, signs.shape[1])
    if not measured:
        return None
    if not active.any():
        return 1.0
    exact = active.sum() <= EXACT_USERS
    chosen = _all_signs(int(active.sum())) if exact else signs[:, active]
    number = np.cumsum(active) - 1
    if metric.linear:
        sums = np.zeros(signs.shape[1])
        for first, second in measured:
            if (added := contributions(metric, first, second)) is not None:
                sums[first.user] += added / len(measured)
        observed, own = sums.sum(), sums[active]
        flipped = np.concatenate([block.astype(np.float64) @ own for block in _blocks(chosen, len(own))])
    else:
        whole = [swapped(metric, first, second, np.zeros((1, len(first.user))))[0] for first, second in measured]
        observed = np.mean(whole)
        flipped = np.mean([_swaps(metric, pair, chosen, active, number) for pair in measured], axis=0)
    extreme = int((np.abs(flipped) >= abs(observed) - _ROUNDING).sum())
    return extreme / len(chosen) if exact else (1 + extreme) / (1 + len(chosen))


def holm(p: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction of the p-values that are there, in their order; at most 1."""
    order = sorted((value, place) for place, value in enumerate(p) if value is not None)
    corrected, running = list(p), 0.0
    for step, (value, place) in enumerate(order):
        running = max(running, min(1.0, value * (len(order) - step)))
        corrected[place] = running
    return corrected


def _measured(
    metric: Metric, pairs: Sequence[tuple[UserSums, UserSums]], users: int
) -> tuple[list[tuple[UserSums, UserSums]], np.ndarray]:
    """The pairs in which there is something to measure, and which users of the study differ in any of them."""
    active = np.zeros(users, dtype=bool)
    measured = []
    for first, second in pairs:
        if (differs := differing(metric, first, second)) is not None:
            measured.append((first, second))
            active[first.user[differs]] = True
    return measured, active


def _swaps(
    metric: Metric, pair: tuple[UserSums, UserSums], signs: np.ndarray, active: np.ndarray, number: np.ndarray
) -> np.ndarray:
    """The pair's difference under each row of the active users' `signs`, `(F,)`, in blocks."""
    user = pair[0].user
    here = active[user]

    def difference(block: np.ndarray) -> np.ndarray:
        swap = np.zeros((len(block), len(user)))
        swap[:, here] = block[:, number[user[here]]] < 0
        return swapped(metric, *pair, swap)

    return np.concatenate([difference(block) for block in _blocks(signs, len(user))])


def _blocks(signs: np.ndarray, width: int) -> list[np.ndarray]:
    step = max(1, _BLOCK // max(1, width))
    return [signs[first : first + step] for first in range(0, len(signs), step)]


def _all_signs(users: int) -> np.ndarray:
    """Every way to swap, `(2 ** users, users)` int8; the first swaps nobody."""
    bits = np.arange(2**users)[:, None] >> np.arange(users) & 1
    return (1 - 2 * bits).astype(np.int8)
