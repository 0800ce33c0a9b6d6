import numpy as np
import pytest

from stages.common.hashing import bits, pseudonym, spread, uniform


def test_a_number_belongs_to_its_keys_alone():
    users = np.arange(1000)
    whole = uniform(3, 7, users)
    assert np.array_equal(uniform(3, 7, users[::-1])[::-1], whole)
    assert uniform(3, 7, 412) == whole[412]
    assert not np.isclose(uniform(4, 7, users), whole).any()
    assert not np.isclose(uniform(3, 8, users), whole).any()


def test_bits_of_neighbouring_keys_are_even_and_independent():
    a, b = uniform(0, np.arange(100_000)), uniform(1, np.arange(100_000))
    assert abs(a.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.02
    assert len(np.unique(bits(0, np.arange(100_000)))) == 100_000


@pytest.mark.parametrize("dimension", [0, 3, 40, 127])
def test_spread_is_even_over_any_run_of_members(dimension):
    numbers = np.sort(spread(5, dimension, np.arange(1234, 1634)))
    assert numbers[0] >= 0 and numbers[-1] < 1
    assert np.abs(numbers - (np.arange(400) + 0.5) / 400).max() < 0.05


def test_pseudonyms_are_stable_over_machines_and_runs():
    assert pseudonym("user 1") == 12322618392695174018
    assert pseudonym("Zoë") != pseudonym("Zoe")
