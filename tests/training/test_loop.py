"""The loop that all training shares: the rate, when training ends, and what is kept."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.training.loop import Validations, copied, restore, train, warmup_cosine


@given(steps=st.integers(1, 200), warmup=st.floats(0, 1), least=st.floats(0, 1))
def test_the_rate_rises_to_its_peak_and_falls_again(steps, warmup, least):
    found = [warmup_cosine(step, steps, warmup, least) for step in range(steps + 1)]
    peak = math.ceil(steps * warmup)
    assert all(least - 1e-9 <= rate <= 1 + 1e-9 for rate in found)
    assert found[:peak] == sorted(found[:peak]) and found[peak:] == sorted(found[peak:], reverse=True)
    assert found[peak] == pytest.approx(1)
    assert peak == steps or found[-1] == pytest.approx(least)


@given(values=st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan]), min_size=1), greater=st.booleans(),
       patience=st.integers(1, 4))
def test_the_best_is_the_earliest_among_equals_and_patience_counts_from_it(values, greater, patience):
    found = Validations(patience, greater)
    best, best_step = None, 0
    for step, value in enumerate(values, 1):
        better = value == value and (best is None or (value > best if greater else value < best))
        assert found.add(step, value) is better
        if better:
            best, best_step = value, step
        assert found.best_step == best_step and ((best is None and math.isnan(found.best)) or found.best == best)
        assert found.exhausted(step) is (step - best_step >= patience)
    assert found.steps == len(values)


def a_training(values, batches=6, every=2, patience=100, validate_first=False, parts=1):
    """Trains one weight by 1 a step, with the validations `values`; the weight at the end, and what was found."""
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer, found, steps = torch.optim.SGD([weight], lr=1.0), Validations(patience), []
    numbers = list(range(batches))
    left = iter(values)
    train((numbers[start : start + every] for start in range(0, batches, every)),
          lambda batch: (-weight / parts for _ in range(parts)), [weight], optimizer, lambda step: 1.0, 1e9,
          lambda: next(left), found, lambda: {"weight": weight}, validate_first, steps.append)
    return weight.item(), found, len(steps)


def test_the_weights_are_those_of_the_best_validation():
    weight, found, steps = a_training([3.0, 1.0, 2.0])
    assert (weight, found.best_step, found.best, steps) == (4.0, 4, 1.0, 6)
    weight, found, steps = a_training([3.0, 5.0, 4.0, 6.0], validate_first=True)
    assert (weight, found.best_step, found.values, steps) == (0.0, 0, {0: 3.0, 2: 5.0, 4: 4.0, 6: 6.0}, 6)


def test_training_ends_when_patience_is_out():
    weight, found, steps = a_training([3.0, 1.0, 2.0, 1.0, 0.0], batches=20, patience=2)
    assert (weight, found.values, steps) == (4.0, {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.0}, 8)


def test_the_rest_of_the_batches_is_a_round_too():
    weight, found, _ = a_training([3.0, 2.0, 1.0], batches=5)
    assert (weight, found.steps) == (5.0, 5)


def test_gradients_of_a_batchs_parts_add_up():
    assert a_training([1.0, 0.5, 0.25], parts=3)[0] == pytest.approx(6.0)


def test_without_a_number_the_last_weights_stay():
    weight, found, _ = a_training([math.nan] * 3)
    assert weight == 6.0 and found.best_step == 0 and math.isnan(found.best)


def test_a_step_is_at_most_as_long_as_the_largest_gradient_allows():
    weight, found = torch.nn.Parameter(torch.zeros(2)), Validations(1)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    train([[0]], lambda batch: [weight @ torch.tensor([30.0, 40.0])], [weight], optimizer, lambda step: 0.5, 5.0,
          lambda: 0.0, found, lambda: {"weight": weight})
    torch.testing.assert_close(weight.detach(), -0.5 * torch.tensor([3.0, 4.0]))


def test_what_is_copied_stays_as_it_was():
    weight = torch.nn.Parameter(torch.ones(2))
    kept = copied({"weight": weight})
    weight.data.fill_(7)
    assert kept["weight"].tolist() == [1, 1]
    restore({"weight": weight}, kept)
    assert weight.tolist() == [1, 1]
