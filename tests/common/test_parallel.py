import threading
import time
from functools import partial

import pytest

from stages.common.parallel import side_by_side


def slow(number):
    time.sleep(0.002 * (5 - number % 5))
    return number


def test_results_come_in_order():
    assert list(side_by_side(partial(slow, number) for number in range(20))) == list(range(20))
    assert list(side_by_side(iter(()))) == []


def failing(number):
    raise ValueError(number)


def test_an_error_comes_after_what_was_made_before_it():
    jobs = [partial(slow, 0), partial(slow, 1), partial(failing, 2), partial(slow, 3)]
    made = []
    with pytest.raises(ValueError, match="2"):
        for number in side_by_side(iter(jobs)):
            made.append(number)
    assert made == [0, 1]


def test_an_error_of_the_iterator_comes_last():
    def jobs():
        yield from (partial(slow, number) for number in range(4))
        raise OSError("gone")

    made = []
    with pytest.raises(OSError, match="gone"):
        for number in side_by_side(jobs()):
            made.append(number)
    assert made == [0, 1, 2, 3]


def test_few_jobs_are_begun_ahead_and_none_is_left_behind():
    begun, before = [], threading.active_count()
    results = side_by_side(partial(begun.append, number) for number in range(1000))
    next(results)
    assert len(begun) < 50
    results.close()
    assert threading.active_count() == before
