"""How often a person did each candidate before a window, in all or in a context: linear in events and windows."""

import numpy as np


def counts_before(
    key: np.ndarray, row: np.ndarray, number: np.ndarray, window_key: np.ndarray, window_row: np.ndarray, size: int
) -> np.ndarray:
    """Of each window, how many events of its key stand before its row, by number: `(W, size)` int32.

    An event is counted where it first matters, at the next window of its key; sums along the windows of a key then
    give every count. So the cost is that of one sorting of the windows, one search an event, and W x size sums.

    Args:
        key: of each event `(M,)`, a person and a context, 0 or more.
        row: of each event `(M,)`, 0 or more.
        number: what was done `(M,)`, below `size`.
        window_key: as `key`, of each window `(W,)`.
        window_row: the row of each window `(W,)`, whose own event is not counted.
        size: how many candidates there are.
    """
    span = np.int64(max(row.max(initial=0), window_row.max(initial=0)) + 1)
    place = window_key * span + window_row
    order = np.argsort(place)
    ordered_key = window_key[order]
    next_window = np.searchsorted(place[order], key * span + row, side="right")
    counted = next_window < len(order)
    counted[counted] = ordered_key[next_window[counted]] == key[counted]
    cells = np.bincount(next_window[counted] * size + number[counted], minlength=len(order) * size)
    sums = np.cumsum(cells.reshape(len(order), size), axis=0, dtype=np.int32)
    begins = np.flatnonzero(np.diff(ordered_key, prepend=-1))
    lengths = np.diff(begins, append=len(order))
    earlier = np.concatenate([np.zeros((1, size), np.int32), sums])[begins]
    found = np.empty((len(order), size), np.int32)
    found[order] = sums - np.repeat(earlier, lengths, axis=0)
    return found


def last_before(
    first: np.ndarray, row: np.ndarray, number: np.ndarray, window_first: np.ndarray, window_row: np.ndarray, size: int
) -> np.ndarray:
    """Of each window, the row of its person's last event of each number before it: `(W, size)`, -1 for none.

    Args:
        first: the first row of each event's person `(M,)`, which tells people apart.
        row: of each event, increasing `(M,)`; a person's rows follow one another.
        number: what was done `(M,)`, below `size`.
        window_first: as `first`, of each window `(W,)`.
        window_row: the row of each window, increasing `(W,)`.
        size: how many candidates there are.
    """
    next_window = np.searchsorted(window_row, row, side="right")
    counted = next_window < len(window_row)
    counted[counted] = window_first[next_window[counted]] == first[counted]
    found = np.full((len(window_row), size), -1, np.int64)
    # rows increase, so that of equal places the last one stays, as NumPy promises
    found[next_window[counted], number[counted]] = row[counted]
    np.maximum.accumulate(found, axis=0, out=found)
    return np.where(found >= window_first[:, None], found, -1)
