import numpy as np
import polars as pl
import pytest
import torch

from stages.baselines.fitting.sequences import Sequences
from stages.baselines.fitting.settings import Budget
from stages.baselines.sequential.objectives import binary_cross_entropy
from stages.baselines.sequential.sasrec import SASRec
from stages.baselines.sequential.training import fit
from stages.baselines.systems.llmesr import LLMESR, Settings, SimilarWindows
from stages.common.errors import UserError
from tests.baselines.laws import (
    CONTEXTS,
    FIELDS_READ,
    check_knows_what_markov_knows,
    check_nothing_depends_on_a_later_behavior,
    check_padding_changes_nothing,
    check_reads,
    one_batch,
    rows_of,
)

LENGTH = 8
SETTINGS = {"dimensions": 16, "blocks": 1, "heads": 2, "dropout": 0.1, "alpha": 0.1, "text": True,
            "cross_attention": True, "similar": 3, "pool": 500, "windows_per_validation": 1, "learning_rate": 0.01,
            "weight_decay": 0.0, "batch_size": 32, "epochs": 25, "warmup": 0}
FIXED = ("text", "cross_attention", "similar", "pool", "windows_per_validation")
VALUES = Settings(**{name: value if name in FIXED else [value] for name, value in SETTINGS.items()})
NAMES = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32) + 5


@pytest.fixture
def data(log):
    return log()


@pytest.fixture
def sequences(data):
    return Sequences(*data, LENGTH)


def untrained(sequences, context="next", **changed):
    torch.manual_seed(0)
    similar = SimilarWindows(sequences, NAMES, SETTINGS["pool"], 0)
    return LLMESR(sequences, SETTINGS | changed, context, NAMES, similar).eval()


def test_with_neither_text_nor_cross_attention_nor_alpha_it_is_sasrec(sequences):
    model = untrained(sequences, text=False, cross_attention=False, alpha=0.0)
    torch.manual_seed(1)
    other = SASRec(sequences, SETTINGS, "next", "bce").eval()
    batch = one_batch(sequences)
    assert not torch.allclose(model.log_p(batch), other.log_p(batch))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.log_p(batch), other.log_p(batch))
    losses = [each.loss(batch, torch.Generator().manual_seed(0)) for each in (model, other)]
    assert losses[0] == losses[1]


def test_it_looks_when_its_own_setting_says(sequences):
    assert untrained(sequences, windows_per_validation=7).windows_per_validation == 7


@CONTEXTS
@pytest.mark.parametrize("cross_attention", [True, False])
def test_no_state_depends_on_a_later_behaviour(sequences, context, cross_attention):
    model, batch = untrained(sequences, context, cross_attention=cross_attention), one_batch(sequences)
    for view in (np.s_[..., :16], np.s_[..., 16:]):
        check_nothing_depends_on_a_later_behavior(
            lambda batch, view=view: model.states(batch)[view], batch, sequences.size, rounding=1e-6, change=1e-3)


def test_each_view_reads_the_other_through_cross_attention_alone(sequences):
    batch = one_batch(sequences)
    for cross_attention in (True, False):
        model = untrained(sequences, cross_attention=cross_attention)
        ids = model.states(batch)[..., :16]
        with torch.no_grad():
            model.text += torch.randn_like(model.text)
        assert torch.equal(ids, model.states(batch)[..., :16]) == (not cross_attention)


@FIELDS_READ
def test_a_context_mode_reads_what_its_name_says(sequences, context, fields_read):
    check_reads(untrained(sequences, context).log_p, one_batch(sequences), fields_read)


def test_padding_changes_nothing(sequences):
    check_padding_changes_nothing(untrained(sequences).log_p, sequences)


def test_ids_start_from_the_principal_components_of_names(sequences):
    ids = untrained(sequences).embedder.behaviors.weight.detach().numpy()
    scaled = NAMES.astype(float) - NAMES.mean(axis=0, dtype=float)
    scaled /= np.sqrt((scaled**2).sum() / 5)
    np.testing.assert_allclose(ids[:5, :4] @ ids[:5, :4].T, scaled @ scaled.T, atol=1e-5)
    assert 0.005 < ids[:5, 4:].std() < 0.04
    narrow = untrained(sequences, dimensions=2).embedder.behaviors.weight.detach().numpy()
    np.testing.assert_allclose(narrow[:5], ids[:5, :2], atol=1e-6)


def test_names_stay_as_they_are_and_ids_and_adapter_learn(sequences):
    values = VALUES.model_copy(update={"epochs": [2]})
    similar = SimilarWindows(sequences, NAMES, 500, 0)
    found = fit("test", lambda settings: LLMESR(sequences, settings, "id", NAMES, similar), sequences, values,
                Budget(trials=1, valid_windows=50, patience=2, windows_per_validation=1), 0)
    start, end = untrained(sequences, "id").state_dict(), found.model.state_dict()
    changed = {name for name in end if not torch.equal(start[name], end[name].cpu())}
    assert "text" in end and "text" not in changed
    assert {"embedder.behaviors.weight", "adapter.0.weight", "adapter.1.weight", "ids_asked.query.weight",
            "text_asked.value.weight"} <= changed


def test_similar_windows_are_the_most_alike_of_other_users_in_training(data, sequences):
    events, windows, _ = data
    train = set(rows_of(windows, "train"))
    similar, batch, user = SimilarWindows(sequences, NAMES, 500, 0), one_batch(sequences), events["user"].to_numpy()
    rows, there = similar.of(batch, 7)
    assert rows.shape == (16, 7) and there.all() and len(similar.rows) == 500 and set(similar.rows) <= train
    own = user[batch.user.numpy()]
    assert (user[rows] != own[:, None]).all() and len(set(own)) > 3

    def meaning(behavior):
        centred = np.vstack([NAMES - NAMES.mean(axis=0), np.zeros((3, 20))])
        mean = centred[behavior].sum(axis=1) / (behavior < 5).sum(axis=1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    cosine = meaning(batch.behavior.numpy()) @ meaning(sequences.windows(similar.rows).behavior.numpy()).T
    cosine[own[:, None] == user[similar.rows]] = -np.inf
    for each in range(16):
        got = cosine[each, np.searchsorted(similar.rows, rows[each])]
        np.testing.assert_allclose(np.sort(got), np.sort(cosine[each])[-7:], atol=1e-5)


def test_the_loss_draws_states_to_those_of_similar_windows_and_not_those_to_them(sequences):
    model, batch = untrained(sequences), one_batch(sequences)
    states = model.states(batch)
    rows, _ = model.similar.of(batch, 3)
    taught = model.states(sequences.windows(rows.flatten()))[:, -1].view(16, 3, -1).mean(dim=1)
    distance = ((states[:, -1] - taught) ** 2).mean()
    plain = binary_cross_entropy(model.scores(states), batch.label, torch.Generator().manual_seed(0))
    loss = model.loss(batch, torch.Generator().manual_seed(0))
    assert distance > 0.01 and loss.item() == pytest.approx((plain + 0.1 * distance).item(), rel=1e-5)
    assert not model._distance(model.similar, states[:, -1].detach(), batch).requires_grad


def test_a_user_without_others_learns_from_labels_alone(data):
    events, windows, vocabulary = data
    alone = windows.filter((pl.col("split") != "train") | (pl.col("row") < 60))
    sequences = Sequences(events, alone, vocabulary, LENGTH)
    model, batch = untrained(sequences), one_batch(sequences)
    assert not model.similar.of(batch, 3)[1].any()
    assert model._distance(model.similar, model.states(batch)[:, -1], batch) == 0


@pytest.mark.parametrize("changed", [{"text": False}, {"dimensions": 15, "heads": 1}])
def test_settings_that_contradict_each_other_are_refused(sequences, changed):
    with pytest.raises(UserError, match="cross_attention needs two views"):
        untrained(sequences, **changed)


def test_learns_a_chain_that_markov_knows(log):
    chain = log(users=100)
    sequences = Sequences(*chain, LENGTH)
    similar = SimilarWindows(sequences, NAMES, 200, 0)
    found = fit("test", lambda settings: LLMESR(sequences, settings, "next", NAMES, similar), sequences, VALUES,
                Budget(trials=1, valid_windows=200, patience=40, windows_per_validation=1), 0)
    check_knows_what_markov_knows(found.model, sequences, chain)

