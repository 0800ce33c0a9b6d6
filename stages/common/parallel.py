"""Work on the parts of a log in several threads: Polars and NumPy let go of the interpreter while they compute."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import polars as pl

Made = TypeVar("Made")


def side_by_side(jobs: Iterator[Callable[[], Made]]) -> Iterator[Made]:
    """What each job makes, in order; as many run at once as Polars has threads, and one result may wait.

    An error, of a job or of the iterator, comes after what the jobs before it made.
    """
    threads = pl.thread_pool_size()
    waiting: deque[Future[Made]] = deque()
    failure: Exception | None = None
    with ThreadPoolExecutor(threads) as pool:
        try:
            while waiting or failure is None:
                while failure is None and len(waiting) <= threads:
                    try:
                        waiting.append(pool.submit(next(jobs)))
                    except Exception as error:  # the end of the jobs included
                        failure = error
                if waiting:
                    yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
    if not isinstance(failure, StopIteration):
        raise failure
