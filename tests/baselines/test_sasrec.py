from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.baselines.losses import binary_cross_entropy
from stages.baselines.sasrec import SASRec, Settings
from stages.baselines.sequences import NO_LABEL, Sequences
from stages.baselines.settings import Budget
from stages.baselines.training import fit, predict
from stages.baselines.trivial import Markov
from tests.baselines.test_trivial import labels_of, rows_of

LENGTH = 8
SETTINGS = {"dimensions": 16, "blocks": 2, "heads": 2, "dropout": 0.1, "learning_rate": 0.01, "weight_decay": 0.0,
            "batch_size": 32, "epochs": 12, "warmup": 0}
VALUES = Settings(**{name: [value] for name, value in SETTINGS.items()})
BUDGET = Budget(trials=1, valid_windows=200, patience=12)


@pytest.fixture
def sequences(log):
    return Sequences(*log(), LENGTH)


def untrained(sequences, context="next", objective="ce"):
    torch.manual_seed(0)
    return SASRec(sequences, SETTINGS, context, objective).eval()


def one_batch(sequences):
    return next(iter(sequences.epoch(16, np.random.default_rng(0))))


@pytest.mark.parametrize("context", ["id", "history", "next"])
def test_no_score_depends_on_a_later_behaviour(sequences, context):
    model, batch = untrained(sequences, context), one_batch(sequences)
    before = model(batch)
    changed = batch.behavior.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % sequences.size
    after = model(replace(batch, behavior=changed))
    known = ~batch.padding
    assert torch.equal(before[:, :5][known[:, :5]], after[:, :5][known[:, :5]])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@pytest.mark.parametrize(("context", "told"), [("id", set()), ("history", {"hour"}), ("next", {"hour", "next_hour"})])
def test_a_context_mode_tells_what_its_name_says(sequences, context, told):
    model, batch = untrained(sequences, context), one_batch(sequences)
    for field in ("hour", "next_hour"):
        other = replace(batch, **{field: (getattr(batch, field) + 1) % 24})
        assert torch.equal(model(batch), model(other)) == (field not in told)


def test_padding_changes_nothing(sequences):
    model = untrained(sequences)
    rows = np.array([5, 6])  # five and six events of history
    batch = sequences.windows(rows)
    other = replace(batch, behavior=torch.where(batch.padding, 0, batch.behavior))
    assert batch.padding.any() and torch.allclose(model.log_p(batch), model.log_p(other))


# one negative a label teaches less a step than all the others
@pytest.mark.parametrize(("objective", "epochs"), [("bce", 40), ("ce", 15)])
def test_learns_a_chain_that_markov_knows(log, objective, epochs):
    events, windows, vocabulary = log(users=100)
    sequences, rows = Sequences(events, windows, vocabulary, LENGTH), rows_of(windows, "natural")
    label = labels_of(events, rows, vocabulary)
    values = VALUES.model_copy(update={"epochs": [epochs]})
    found = fit("test", lambda settings: SASRec(sequences, settings, "next", objective), sequences, values, BUDGET, 0)
    log_p = predict(found.model, sequences, rows)
    assert np.allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-4)
    accuracy = (log_p.argmax(axis=1) == label).mean()
    markov = (Markov().fit(events, windows, vocabulary).log_p(events, rows).argmax(axis=1) == label).mean()
    assert accuracy > markov - 0.03 and accuracy > 0.5


def test_the_best_look_is_kept_and_the_same_seed_gives_the_same_model(sequences):
    values = Settings(**{**VALUES.model_dump(), "epochs": [3], "learning_rate": [0.01, 1e-6]})
    budget = Budget(trials=2, valid_windows=100, patience=3)
    found, again = (fit("test", lambda settings: SASRec(sequences, settings, "id", "ce"), sequences, values, budget, 0)
                    for _ in range(2))
    assert len(found.trials) == 2 and found.score == max(trial["score"] for trial in found.trials)
    assert found.settings["learning_rate"] == 0.01
    rows = sequences.valid_rows(50, 0)
    assert np.array_equal(predict(found.model, sequences, rows), predict(again.model, sequences, rows))


def test_a_negative_is_any_other_behaviour_and_never_the_label():
    scores = torch.zeros(1, 6000, 5).index_fill(2, torch.tensor([2]), 100.0)
    label = torch.full((1, 6000), 2)
    # the label costs nothing, a negative ln 2: were the label ever a negative, it would cost 100
    assert binary_cross_entropy(scores, label, torch.Generator().manual_seed(0)).item() == pytest.approx(np.log(2))
    marked = torch.zeros(1, 6000, 5).index_fill(2, torch.tensor([4]), 1.0)
    extra = binary_cross_entropy(marked, label, torch.Generator().manual_seed(0)).item() - 2 * np.log(2)
    assert extra == pytest.approx((np.log1p(np.e) - np.log(2)) / 4, rel=0.1)


def test_what_has_no_label_is_not_counted():
    scores, label = torch.randn(2, 3, 4), torch.tensor([[0, NO_LABEL, 1], [NO_LABEL, NO_LABEL, 3]])
    other = torch.where((label == NO_LABEL)[..., None], torch.randn(2, 3, 4), scores)
    losses = [binary_cross_entropy(each, label, torch.Generator().manual_seed(1)) for each in (scores, other)]
    assert losses[0] == losses[1]
