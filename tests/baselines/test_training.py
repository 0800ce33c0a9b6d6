"""What is trained from nothing: when it is validated, and when training ends."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.baselines.fitting.settings import Budget, Trained
from stages.baselines.sequential import training
from stages.baselines.fitting.sequences import NO_LABEL, Sequences
from stages.baselines.sequential.training import Recommender, fit

LENGTH = 8
VALUES = Trained(learning_rate=[0.1], dropout=[0.0], weight_decay=[0.0], batch_size=[64], epochs=[9], warmup=[0])


class Counting(Recommender):
    """Learns shares, and counts the targets that it has learned from."""

    def __init__(self, size: int, windows_per_validation: int | None = None):
        super().__init__()
        self.windows_per_validation, self.targets = windows_per_validation, 0
        self.scores = nn.Parameter(torch.zeros(size))

    def loss(self, batch, generator):
        label = batch.label[batch.label != NO_LABEL]
        self.targets += len(label)
        return -self.scores.log_softmax(dim=0)[label].mean()

    def log_p(self, batch):
        return self.scores.log_softmax(dim=0).expand(len(batch.label), -1)


@pytest.fixture(scope="module")
def sequences(log):
    return Sequences(*log(), LENGTH)


@pytest.fixture
def validations(sequences, monkeypatch):
    """The targets seen before each validation of a training with a budget; none is better than the first."""
    def found(windows_per_validation, own=None, patience=2):
        seen = []

        def validate(model, sequences, rows):
            seen.append(model.targets)
            return 0.5

        monkeypatch.setattr(training, "reciprocal_rank", validate)
        budget = Budget(trials=1, valid_windows=50, patience=patience, windows_per_validation=windows_per_validation)
        fitted = fit("test", lambda settings: Counting(sequences.size, own), sequences, VALUES, budget, 0)
        assert fitted.trials[0]["epoch"] == 1
        return seen

    return found


def test_validations_are_whole_passes_apart_as_many_as_the_budget_holds(sequences, validations):
    log = len(sequences.train_rows())
    once = validations(1)[0]
    for wanted, passes in ((log - 1, 1), (log, 1), (2 * log - 1, 1), (2 * log, 2), (5 * log, 5)):
        assert validations(wanted) == [passes * once * number for number in (1, 2, 3)]


def test_training_ends_when_patience_is_out_or_the_validations_are(validations):
    assert [len(validations(1, patience=patience)) for patience in (1, 3, 20)] == [2, 4, VALUES.epochs[0]]


def test_a_baselines_own_windows_between_validations_go_before_the_budgets(sequences, validations):
    log = len(sequences.train_rows())
    assert validations(5 * log, own=2 * log) == validations(2 * log) == validations(1, own=2 * log)


@given(st.integers(1, 10_000_000), st.integers(1, 10_000_000))
def test_passes_are_the_most_that_do_not_exceed_what_is_wanted(windows, wanted):
    passes = training._passes(windows, wanted)
    assert passes >= 1 and (passes == 1 or passes * windows <= wanted)
    assert (passes + 1) * windows > wanted
