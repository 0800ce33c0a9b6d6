"""Seeded choices: a stream of random numbers for each purpose, and at most so many of each group."""

import zlib

import numpy as np

# The numbers that these purposes had before they had names. A new purpose needs no line here, since a change of this
# file runs every stage again: its number follows from its name.
_NUMBERS = {
    "instructions train": 0, "auxiliary conversations": 0,  # the same: numpy reads a seed alone as a seed and 0
    "instructions valid": 1, "sft auxiliary": 1,  # one number for two purposes, kept so that adapters stay as they are
    "scoring pool": 2,
    "selection": 3,
    "dpo validation": 4,
    "sft batches": 5,
    "tested windows": 6,
    "llara curriculum": 7,
    "allmrec events": 8, "tallrec conversations": 8,  # the same
    "api windows": 9,
    "report examples": 11,
    "benchmark sft windows": 12,
    "benchmark scoring windows": 13,
    "benchmark dpo pairs": 14,
    "benchmark validation windows": 15,
    "benchmark training windows": 16,
}


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """Random numbers for one purpose, and for what `keys` number within it (a group, an epoch)."""
    # above 32 bits there is no number of the table
    return np.random.default_rng([seed, _NUMBERS.get(purpose, 2**32 + zlib.crc32(purpose.encode())), *keys])


def first_of_each(groups: np.ndarray, most: int) -> np.ndarray:
    """Places, ascending, of the first `most` entries of each group, for the groups (N,) of entries in drawn order."""
    order = np.argsort(groups, kind="stable")
    return np.sort(order[positions(groups[order]) < most])


def positions(groups: np.ndarray) -> np.ndarray:
    """How many entries of the same group stand before each entry (N,), where each group's entries stand together."""
    place = np.arange(len(groups))
    is_first = np.concatenate([[True], groups[1:] != groups[:-1]])[: len(groups)]
    return place - np.maximum.accumulate(np.where(is_first, place, 0))
