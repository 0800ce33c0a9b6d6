"""Random numbers that are a function of what they belong to: no order of rows, users or chunks can change them."""

import hashlib
from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROOTS = np.sqrt([n for n in range(2, 720) if all(n % d for d in range(2, int(n**0.5) + 1))])


def bits(*keys: int | np.ndarray) -> np.ndarray:
    """64 well-mixed bits of the keys (integers or integer arrays, broadcast against each other), as uint64.

    Each key passes through the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    """
    with np.errstate(over="ignore"):
        state: Any = _GOLDEN
        for key in keys:
            key = np.asarray(key).astype(np.uint64)
            state = (state ^ key) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(*keys: int | np.ndarray) -> np.ndarray:
    """A number strictly between 0 and 1 for the keys, as float64."""
    return ((bits(*keys) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def spread(seed: int, dimension: int | np.ndarray, members: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each member (an integer), evenly spread over any run of consecutive members.

    A Kronecker sequence with the square roots of primes, shifted by the seed: a few hundred people then hold every
    kind of person in its due share, where independent numbers would leave that to luck.

    Args:
        dimension: which of the independent sequences, 0 to 127.
    """
    return (uniform(seed, dimension) + members * _ROOTS[dimension]) % 1.0


def pseudonym(name: str, key: bytes = b"") -> int:
    """The 64-bit number that stands for a user: the BLAKE2b digest of the id as it is written in the log.

    Args:
        key: a secret, without which ids can be found by trying; none where ids are no secret.
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), key=key, digest_size=8).digest(), "little")
