import numpy as np
import pytest
import torch

from stages.baselines.fitting.sequences import NO_LABEL, Sequences
from stages.baselines.fitting.settings import Budget
from stages.baselines.sequential.objectives import binary_cross_entropy
from stages.baselines.sequential.sasrec import SASRec, Settings
from stages.baselines.sequential.training import fit, predict
from tests.baselines.laws import (
    CONTEXTS,
    FIELDS_READ,
    check_knows_what_markov_knows,
    check_nothing_depends_on_a_later_behavior,
    check_padding_changes_nothing,
    check_reads,
    one_batch,
)

LENGTH = 8
SETTINGS = {"dimensions": 16, "blocks": 2, "heads": 2, "dropout": 0.1, "learning_rate": 0.01, "weight_decay": 0.0,
            "batch_size": 32, "epochs": 12, "warmup": 0}
VALUES = Settings(**{name: [value] for name, value in SETTINGS.items()})
BUDGET = Budget(trials=1, valid_windows=200, patience=12, windows_per_validation=1)


@pytest.fixture
def sequences(log):
    return Sequences(*log(), LENGTH)


def untrained(sequences, context="next", objective="ce"):
    torch.manual_seed(0)
    return SASRec(sequences, SETTINGS, context, objective).eval()


@CONTEXTS
def test_no_score_depends_on_a_later_behaviour(sequences, context):
    check_nothing_depends_on_a_later_behavior(untrained(sequences, context), one_batch(sequences), sequences.size)


@FIELDS_READ
def test_a_context_mode_reads_what_its_name_says(sequences, context, fields_read):
    check_reads(untrained(sequences, context), one_batch(sequences), fields_read)


def test_padding_changes_nothing(sequences):
    check_padding_changes_nothing(untrained(sequences).log_p, sequences)


def test_torchs_fused_blocks_give_the_scores_of_the_plain_ones(sequences, monkeypatch):
    model, batch, calls = untrained(sequences), sequences.windows(np.arange(5, 60)), []
    fused = torch._transformer_encoder_layer_fwd

    def spy(*arguments):
        calls.append(len(arguments))
        return fused(*arguments)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", spy)
    with torch.inference_mode():  # as `predict` does
        fast = model.log_p(batch)
        assert len(calls) == SETTINGS["blocks"], "two heads in inference mode: torch takes its fused blocks"
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            plain = model.log_p(batch)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    assert len(calls) == SETTINGS["blocks"] and batch.padding.any() and not batch.padding.all(dim=1).any()
    torch.testing.assert_close(fast, plain, atol=1e-5, rtol=0)
    trained = SASRec(sequences, SETTINGS | {"dropout": 0.0}, "next", "ce")
    trained.load_state_dict(model.state_dict())
    torch.testing.assert_close(fast, trained.train().log_p(batch).detach(), atol=1e-5, rtol=0)


# one negative a label teaches less a step than all the others
@pytest.mark.parametrize(("objective", "epochs"), [("bce", 40), ("ce", 15)])
def test_learns_a_chain_that_markov_knows(log, objective, epochs):
    chain = log(users=100)
    sequences = Sequences(*chain, LENGTH)
    values = VALUES.model_copy(update={"epochs": [epochs]})
    found = fit("test", lambda settings: SASRec(sequences, settings, "next", objective), sequences, values, BUDGET, 0)
    check_knows_what_markov_knows(found.model, sequences, chain)


def test_the_best_validation_is_kept_and_the_same_seed_gives_the_same_model(sequences):
    values = Settings(**{**VALUES.model_dump(), "epochs": [3], "learning_rate": [0.01, 1e-6]})
    budget = Budget(trials=2, valid_windows=100, patience=3, windows_per_validation=1)
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
