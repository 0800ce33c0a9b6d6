"""Which end of a file is the oldest, and which file. Rows of one time stand as they happened only if that is known."""

from collections.abc import Sequence

import numpy as np

_SURE = 0.9  # share of the steps in time that go down in a file that begins with the newest


def newest_first(users: Sequence[np.ndarray], times: Sequence[np.ndarray]) -> bool:
    """Whether a file begins with its newest rows: nearly all steps between rows go back in time.

    Steps from a row to the next of the same user count, since a file may hold one person after the other; where there
    is none, all do.

    Args:
        users: numbers `(N,)` of each piece of the file, as its rows come.
        times: microseconds `(N,)` of each.
    """
    same, every = np.zeros(2, np.int64), np.zeros(2, np.int64)  # steps up and down
    last: tuple[np.ndarray, np.ndarray] | None = None
    for user, time in zip(users, times, strict=True):
        if not len(user):
            continue
        if last is not None:
            user, time = np.concatenate([last[0], user]), np.concatenate([last[1], time])
        up, down, alike = time[1:] > time[:-1], time[1:] < time[:-1], user[1:] == user[:-1]
        every += up.sum(), down.sum()
        same += (up & alike).sum(), (down & alike).sum()
        last = user[-1:], time[-1:]
    steps = same if same.any() else every
    return bool(steps[1] > _SURE * steps.sum())


def middle(times: Sequence[np.ndarray]) -> tuple[int, int, int]:
    """By what files stand in order: the median of a file's times, then its oldest and its newest.

    Where one file ends when another begins, or before, this puts it first, whatever they are called. A few rows of a
    wrong clock do not matter, as they would for the oldest.

    Args:
        times: microseconds `(N,)` of each piece of the file.
    """
    time = np.concatenate(times)
    if not len(time):
        return 0, 0, 0
    half = (len(time) - 1) // 2
    return int(np.partition(time, half)[half]), int(time.min()), int(time.max())
