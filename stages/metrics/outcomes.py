"""What a model's distribution says about each window: its answer, its confidence, the label's rank."""

from dataclasses import dataclass

import numpy as np

from stages.metrics.candidates import OUTSIDE, OwnCandidates


@dataclass(frozen=True)
class Outcomes:
    """One value a window, each of shape `(N,)`.

    Attributes:
        label: number of the true behaviour, the same in all windows: below V of the vocabulary, from V on of what a
            person did before; or `OUTSIDE`.
        predicted: the most likely behaviour's number; ties by candidate order.
        rank: place of the label among the candidates, 1 the best, ties by candidate order; infinite where `OUTSIDE`.
        confidence: probability of `predicted`, 0 to 1.
        surprise: -log p of the label in nats; NaN where `OUTSIDE`.
        size: how many behaviours are numbered: V, and the labels of `own`.
        vocabulary: how many of these the vocabulary has, V.
        known: events of the person before the window; None where nobody counted them.
    """

    label: np.ndarray
    predicted: np.ndarray
    rank: np.ndarray
    confidence: np.ndarray
    surprise: np.ndarray
    size: int
    vocabulary: int
    known: np.ndarray | None = None

    @property
    def hit(self) -> np.ndarray:
        """1.0 where the answer is right, else 0.0; a label outside the candidates is never hit."""
        return (self.predicted == self.label).astype(np.float64)

    def hit_at(self, top: int) -> np.ndarray:
        """1.0 where the label is among the `top` most likely, else 0.0."""
        return (self.rank <= top).astype(np.float64)


def outcomes(
    log_p: np.ndarray, label: np.ndarray, own: OwnCandidates | None = None, known: np.ndarray | None = None
) -> Outcomes:
    """Read the outcomes off log-probabilities, every row normalised.

    Args:
        log_p: `(N, V)`, or `(N, V + E)` with `own`: -inf in a slot that is no candidate.
        label: slots of the true behaviours `(N,)`, or `OUTSIDE`.
        own: candidates behind the vocabulary.
        known: events of the person before each window `(N,)`.

    Raises:
        ValueError: a candidate's value is not finite or a row does not sum to 1.
    """
    size = log_p.shape[1] - (own.width if own else 0)
    right = np.isfinite(log_p)
    if own:
        right[:, size:] = np.where(own.there, right[:, size:], np.isneginf(log_p[:, size:]))
    if not right.all():
        raise ValueError(f"log_p of window {int(np.argwhere(~right)[0, 0])} is not finite")
    total = np.exp(log_p.astype(np.float64)).sum(axis=1)
    if (wrong := np.abs(total - 1) > 1e-3).any():
        first = int(wrong.argmax())
        raise ValueError(f"probabilities of window {first} sum to {total[first]:.4f}, expected 1")
    label = np.asarray(label, dtype=np.int64)
    named = label != OUTSIDE
    candidate = np.where(named, label, 0)
    truth = np.take_along_axis(log_p, candidate[:, None], axis=1)  # (N, 1)
    earlier = np.arange(log_p.shape[1]) < candidate[:, None]
    rank = 1 + (log_p > truth).sum(axis=1) + ((log_p == truth) & earlier).sum(axis=1)
    predicted = log_p.argmax(axis=1)
    return Outcomes(
        label=own.behavior(label, size) if own else label,
        predicted=own.behavior(predicted, size) if own else predicted,
        rank=np.where(named, rank, np.inf),
        confidence=np.exp(log_p.max(axis=1).astype(np.float64)),
        surprise=np.where(named, -truth[:, 0].astype(np.float64), np.nan),
        size=size + (len(own.labels) if own else 0),
        vocabulary=size,
        known=known,
    )
