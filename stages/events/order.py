"""Sorting by user and time, in time that grows as the number of rows, and the repetitions that this brings together."""

import numpy as np
import polars as pl

_COARSER = (1_000_000, 1_000)  # a second and a millisecond, in microseconds


def stable_order(user: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows `(N,)` in the order of user, then time, ties in their order; and the users `(N,)` in that order.

    Args:
        user: numbers from 0 `(N,)`, the fewer bits the better.
        time: microseconds `(N,)`, int64.
    """
    if not len(user):
        return np.zeros(0, np.int64), user
    if (time[1:] >= time[:-1]).all():  # as most logs are written
        return _ranked(user)
    since = time - time.min()
    for unit in _COARSER:
        if not (since % unit).any():
            since //= unit
            break
    by_time, _ = _ranked(since)
    order, user = _ranked(user[by_time])
    return by_time[order], user


def _ranked(key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows in the order of `key` (not negative), ties in their order; and the keys in that order.

    Key and row share one integer where they fit: NumPy sorts integers many times as fast as it argsorts them.
    """
    bits = (len(key) - 1).bit_length()
    if int(key.max()).bit_length() + bits > 63:
        order = np.argsort(key, kind="stable")
        return order, key[order]
    packed = key.astype(np.int64)
    packed <<= bits
    packed |= np.arange(len(key))
    packed.sort()
    key = (packed >> bits).astype(key.dtype)
    packed &= (1 << bits) - 1
    return packed, key


def repeated(user: np.ndarray, time: np.ndarray, fingerprint: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The places in `order` of rows that agree with an earlier one in user, time and fingerprint.

    Args:
        user: numbers `(N,)`, sorted by `order`.
        time: microseconds `(N,)`, sorted by `order`.
        fingerprint: hashes `(N,)`, as the rows came.
        order: `stable_order` of the rows.
    """
    same = (user[1:] == user[:-1]) & (time[1:] == time[:-1])
    if not same.any():
        return np.zeros(0, np.int64)
    tied = np.zeros(len(user), bool)
    tied[1:] = same
    tied[:-1] |= same
    places = np.flatnonzero(tied)
    follows = np.concatenate([[False], same])[places]
    rows = pl.DataFrame({"tie": np.cumsum(~follows), "fingerprint": fingerprint[order[places]]})
    return places[~rows.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()]
