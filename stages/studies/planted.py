"""Studies with a known answer: predictions of rows whose true accuracies are given.

`python -m stages.studies.planted --sets 200 --effect 0.1` prints how often intervals cover the truth and tests reject.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import polars as pl

from stages.common.draws import stream
from stages.common.tables import SCHEMAS
from stages.studies.compare import Comparison, summarise
from stages.studies.repetitions import Repetition, RowResult


ACCURACY = 0.35
"""The true accuracy of row `old`."""


@dataclass(frozen=True)
class Plan:
    """What to plant. Accuracies are of every window alike, so an effect is the same in all means of hits.

    Attributes:
        effect: true accuracy of row `new` minus that of row `old`.
        between_users: half the range of the users' own accuracies, shared by the rows.
        of_users: half the range of the users' own effects around `effect`.
        of_repetitions: standard deviation of what a training adds to its row's accuracy.
        shared: how much of a window's luck all rows and repetitions share, 0 to 1.
        folds: whether every repetition has users of its own.
        uneven: whether users have 1 to 2 `windows` - 1 windows in each test set, instead of `windows`.
    """

    effect: float = 0.0
    users: int = 60
    windows: int = 8
    behaviors: int = 10
    repetitions: int = 5
    between_users: float = 0.1
    of_users: float = 0.1
    of_repetitions: float = 0.0
    shared: float = 0.6
    folds: bool = False
    uneven: bool = False


def vocabulary(size: int) -> pl.DataFrame:
    """A tenth of the behaviours are head, a half tail, the first half anchors."""
    share = np.geomspace(1, 0.01, size)
    group = ["head" if n < max(1, size // 10) else "medium" if n < size // 2 else "tail" for n in range(size)]
    return pl.DataFrame({
        "behavior": [f"behaviour {n}" for n in range(size)],
        "train_events": np.arange(size, 0, -1, dtype=np.int64) * 100,
        "share": share / share.sum(),
        "group": group,
        "is_anchor": np.arange(size) < size // 2,
    })


def log_p_of(answer: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Log-probabilities `(N, V)` whose most likely behaviour is `answer` `(N,)`."""
    scores = rng.normal(size=(len(answer), size))
    scores[np.arange(len(answer)), answer] = scores.max(axis=1) + rng.uniform(0.1, 1.5, len(answer))
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def rows(plan: Plan, rng: np.random.Generator) -> list[RowResult]:
    """Rows `old` and `new`; a user with `windows` windows in each of the two test sets."""
    planted: dict[str, list[Repetition]] = {"old": [], "new": []}
    for number in range(plan.repetitions):
        if number == 0 or plan.folds:
            log = _log(plan, number, rng)
        frame, user, label, base, own, luck = log
        for name, repetitions in planted.items():
            accuracy = base + rng.normal() * plan.of_repetitions
            if name == "new":
                accuracy = accuracy + plan.effect + own
            drawn = np.where(rng.random(len(label)) < plan.shared, luck, rng.random(len(label)))
            other = (label + rng.integers(1, plan.behaviors, len(label))) % plan.behaviors
            log_p = log_p_of(np.where(drawn < accuracy, label, other), plan.behaviors, rng)
            predictions = frame.with_columns(log_p=pl.Series(values=log_p)).cast(SCHEMAS["predictions"])
            repetitions.append(Repetition(number, predictions, user))
    return [RowResult(name, name, repetitions) for name, repetitions in planted.items()]


def _log(plan: Plan, number: int, rng: np.random.Generator) -> tuple:
    each = 2 * (rng.integers(1, 2 * plan.windows, plan.users) if plan.uneven else np.full(plan.users, plan.windows))
    count = int(each.sum())
    user = np.repeat(np.arange(plan.users, dtype=np.uint64), each) + np.uint64(1000 * number)
    label = rng.integers(0, plan.behaviors, count)
    frame = pl.DataFrame({
        "row": np.arange(count) + count * number,
        "split": np.where(np.arange(count) % 2 == 0, "natural", "balanced"),
        "behavior": [f"behaviour {n}" for n in label],
    })
    of_user = [np.repeat(rng.uniform(-half, half, plan.users), each) for half in (plan.between_users, plan.of_users)]
    return frame, user, label, ACCURACY + of_user[0], of_user[1], rng.random(count)


@dataclass(frozen=True)
class Coverage:
    """Shares of intervals that cover the truth and of tests with p < .05; estimates and widths `(sets,)`.

    `means` is of the intervals of row `old` itself, if the metric is an accuracy; the rest is of the difference.
    """

    covered: float
    means: float
    rejected: float
    estimates: np.ndarray
    widths: np.ndarray


def coverage(
    plan: Plan, sets: int, seed: int, metric: str = "balanced.overall", resamples: int = 400, flips: int = 1000,
    resample_repetitions: bool = True,
) -> Coverage:
    """Summarise `sets` planted studies and compare with what was planted."""
    comparison = Comparison([metric], resamples=resamples, flips=flips, resample_repetitions=resample_repetitions)
    found = []
    for number in range(sets):
        rng = stream(seed, "planted set", number)
        study = summarise(rows(plan, rng), vocabulary(plan.behaviors), "old", comparison, rng)
        alone, compared = study.rows[0].metrics[metric].mean, study.rows[1].metrics[metric].difference
        assert compared is not None
        found.append([compared.value, compared.low, compared.high, compared.p, alone.low, alone.high])
    value, low, high, p, least, most = np.array(found, dtype=np.float64).T
    covered = (low <= plan.effect) & (plan.effect <= high)
    means = (least <= ACCURACY) & (most >= ACCURACY)
    return Coverage(covered.mean(), means.mean(), (p < 0.05).mean(), value, high - low)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--metric", default="balanced.overall")
    for name in ("effect", "of_users", "of_repetitions", "users", "repetitions", "windows"):
        standing = getattr(Plan, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(standing), default=standing)
    parser.add_argument("--folds", action="store_true")
    parser.add_argument("--uneven", action="store_true", help="users have other numbers of windows")
    parser.add_argument("--users-only", action="store_true", help="draw no repetitions in the bootstrap")
    given = vars(parser.parse_args())
    sets, seed, metric, users_only = (given.pop(name) for name in ("sets", "seed", "metric", "users_only"))
    found = coverage(Plan(**given), sets, seed, metric, resample_repetitions=not users_only)
    spread = found.estimates.std(ddof=1)
    print(f"{sets} sets, {metric}: covered {found.covered:.3f} (means {found.means:.3f}), p < .05 in "
          f"{found.rejected:.3f}, mean difference {found.estimates.mean():+.4f} (s.e. {spread / np.sqrt(sets):.4f}; sd "
          f"{spread:.4f}), mean width {found.widths.mean():.4f}")


if __name__ == "__main__":
    main()
