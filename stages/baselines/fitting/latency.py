"""How long one window takes, by itself: what somebody waits who asks an assistant."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from stages.common.console import console

_TIMED_WINDOWS = 50


def latency_ms(predict_one: Callable[[int], Any], rows: Sequence[int]) -> float:
    """Median time of a window by itself, in milliseconds, over the first of `rows`."""
    seconds = []
    console.quiet = True  # each window would say that it is done
    try:
        for row in rows[:_TIMED_WINDOWS]:
            began = time.perf_counter()
            predict_one(row)
            seconds.append(time.perf_counter() - began)
    finally:
        console.quiet = False
    return median_ms(seconds)


def median_ms(seconds: Iterable[float]) -> float:
    return 1000 * statistics.median(seconds)
