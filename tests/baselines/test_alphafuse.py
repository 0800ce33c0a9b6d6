import numpy as np
import pytest
import torch

from stages.baselines.fitting.sequences import Sequences
from stages.baselines.fitting.settings import Budget
from stages.baselines.sequential.sasrec import SASRec
from stages.baselines.sequential.training import fit, predict
from stages.baselines.systems.alphafuse import AlphaFuse, Settings, whiten
from stages.common.errors import UserError
from tests.baselines.laws import (
    CONTEXTS,
    FIELDS_READ,
    check_knows_what_markov_knows,
    check_nothing_depends_on_a_later_behavior,
    check_padding_changes_nothing,
    check_reads,
)

LENGTH = 8
SETTINGS = {"text_dimensions": 128, "id_dimensions": 12, "id_start": "zeros", "temperature": 0.07,
            "windows_per_epoch": 1000, "dropout": 0.1, "learning_rate": 0.01, "weight_decay": 0.01, "batch_size": 64,
            "epochs": 6, "warmup": 0}
BUDGET = Budget(trials=1, valid_windows=200, patience=14, windows_per_validation=1)


@pytest.fixture
def sequences(log):
    return Sequences(*log(), LENGTH)


def names(size=5, width=20, seed=0):
    return np.random.default_rng(seed).normal(size=(size, width)).astype(np.float32) + 5


def values(**changed):
    fixed = {"windows_per_epoch"}
    return Settings(**{key: value if key in fixed else [value] for key, value in (SETTINGS | changed).items()})


def untrained(sequences, context="next", vectors=None, **changed):
    torch.manual_seed(0)
    vectors = names() if vectors is None else vectors
    model = AlphaFuse(sequences, SETTINGS | changed, context, vectors).eval()
    if model.embedder.behaviors.ids.weight.numel():
        torch.nn.init.normal_(model.embedder.behaviors.ids.weight)  # as after some training
    return model


def one_batch(sequences):
    return next(iter(sequences.whole_windows(16, np.random.default_rng(0), 16)))


def fitted(sequences, context="next", vectors=None, **changed):
    vectors = names() if vectors is None else vectors
    return fit("test", lambda settings: AlphaFuse(sequences, settings, context, vectors), sequences, values(**changed),
               BUDGET, 0)


def test_inner_products_of_names_come_back_from_whitened_coordinates():
    vectors = names(30, 12)
    coordinates, variance = whiten(vectors, 128)
    np.testing.assert_allclose(np.cov(coordinates, rowvar=False), np.eye(12), atol=1e-9)
    centred = vectors.astype(float) - vectors.mean(axis=0, dtype=float)
    np.testing.assert_allclose((coordinates * variance) @ coordinates.T, centred @ centred.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(centred, rowvar=False))[::-1], variance, rtol=1e-4)


def test_with_more_names_than_axes_it_is_the_published_projection():
    vectors = names(200, 30)
    centred = (vectors - vectors.mean(axis=0, dtype=float)) * 40  # the official code's scale, which whitening undoes
    variance, axes = np.linalg.eigh(np.cov(centred, rowvar=False))
    wanted = (centred @ axes / np.sqrt(variance))[:, ::-1][:, :16]
    found, _ = whiten(vectors, 16)
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-3)


def test_no_axis_without_variance_is_divided_by():
    coordinates, variance = whiten(names(7, 500), 128)
    assert coordinates.shape == (7, 6) and (variance > 1e-6 * variance[0]).all() and np.abs(coordinates).max() < 3
    flat = names(30, 12)
    flat[:, 3] = flat[:, 5]  # one axis is gone, but for rounding
    flat[0, 3] += 1e-6
    coordinates, _ = whiten(flat, 128)
    assert coordinates.shape == (30, 11) and np.abs(coordinates).max() < 6
    assert whiten(names(30, 12), 4)[0].shape == (30, 4)


def test_at_full_rank_nothing_is_left_of_what_names_mean():
    for seed in range(2):
        coordinates, _ = whiten(names(7, 500, seed), 128)
        gaps = np.linalg.norm(coordinates[:, None] - coordinates, axis=-1)
        np.testing.assert_allclose(gaps[~np.eye(7, dtype=bool)], gaps[0, 1], rtol=1e-6)
    fewer, _ = whiten(names(7, 500), 3)
    gaps = np.linalg.norm(fewer[:, None] - fewer, axis=-1)[~np.eye(7, dtype=bool)]
    assert gaps.max() > 1.5 * gaps.min()


def test_training_leaves_the_text_alone_and_moves_the_ids(sequences):
    found = fitted(sequences, epochs=2)
    behaviors = found.model.embedder.behaviors
    wanted = np.zeros((8, 4), np.float32)
    wanted[:5] = whiten(names(), 128)[0]
    np.testing.assert_array_equal(behaviors.text.cpu().numpy(), wanted)
    weights = dict(found.model.named_parameters())
    assert not any("text" in name for name in weights) and "embedder.behaviors.text" in found.model.state_dict()
    assert behaviors.ids.weight[:5].abs().min() > 0 and (behaviors.ids.weight[6] == 0).all()


def test_without_ids_it_is_text_alone(sequences):
    model = untrained(sequences, id_dimensions=0)
    vectors = model.embedder.behaviors.weight.detach().numpy()
    assert vectors.shape == (8, 4)
    np.testing.assert_allclose(vectors[:5], whiten(names(), 128)[0], rtol=1e-5)
    assert np.isfinite(predict(fitted(sequences, id_dimensions=0, epochs=1).model, sequences, np.arange(20))).all()


def test_without_text_its_body_is_sasrecs(sequences):
    model, batch = untrained(sequences, text_dimensions=0, id_start="normal"), one_batch(sequences)
    torch.manual_seed(1)
    other = SASRec(sequences, {"dimensions": 12, "blocks": 1, "heads": 1, "dropout": 0.1}, "next", "ce").eval()
    assert not torch.allclose(model.encoder(model.embedder(batch), batch.padding),
                              other.encoder(other.embedder(batch), batch.padding))
    state = model.state_dict()
    state["embedder.behaviors.weight"] = state.pop("embedder.behaviors.ids.weight")
    assert state.pop("embedder.behaviors.text").shape == (8, 0)
    other.load_state_dict(state)
    hidden = model.encoder(model.embedder(batch), batch.padding)
    assert torch.equal(hidden, other.encoder(other.embedder(batch), batch.padding))
    vectors = other.embedder.behaviors.weight[:5]
    cosine = (hidden @ vectors.T) / hidden.norm(dim=-1, keepdim=True) / vectors.norm(dim=-1)
    assert torch.allclose(model(batch), cosine / 0.07, atol=1e-4)


@pytest.mark.parametrize("changed", [
    {"text_dimensions": 0}, {"text_dimensions": 0, "id_dimensions": 0, "id_start": "normal"},
    {"vectors": np.ones((5, 20), np.float32)},
])
def test_behaviours_without_a_direction_are_refused(sequences, changed):
    with pytest.raises(UserError, match="a zero vector has no cosine"):
        untrained(sequences, **changed)


def test_predicts_by_the_cosine_it_was_trained_by_and_over_behaviours_alone(sequences):
    model, batch = untrained(sequences), one_batch(sequences)
    log_p = model.log_p(batch)
    assert log_p.shape == (16, 5) and torch.allclose(log_p.exp().sum(dim=1), torch.ones(16))
    mean = -log_p.gather(1, batch.label[:, -1:]).mean()
    assert torch.allclose(mean, model.loss(batch, torch.Generator()))
    with torch.no_grad():
        model.embedder.behaviors.ids.weight[7] += 100  # a mask is no candidate, and no window has one
    assert torch.equal(log_p, model.log_p(batch))


@CONTEXTS
def test_no_score_depends_on_a_later_behaviour(sequences, context):
    check_nothing_depends_on_a_later_behavior(untrained(sequences, context), one_batch(sequences), sequences.size)


@FIELDS_READ
def test_a_context_mode_reads_what_its_name_says(sequences, context, fields_read):
    check_reads(untrained(sequences, context), one_batch(sequences), fields_read)


def test_padding_changes_nothing(sequences):
    check_padding_changes_nothing(untrained(sequences).log_p, sequences)


def test_an_epoch_is_a_draw_of_whole_windows_with_their_last_labels(sequences):
    model, rng = untrained(sequences, windows_per_epoch=100), np.random.default_rng(0)
    first, second = ([*model.epoch(sequences, 30, rng)] for _ in range(2))
    assert [len(batch.label) for batch in first] == [30, 30, 30, 10]
    assert not torch.equal(first[0].behavior, second[0].behavior)
    every = set(map(tuple, sequences.windows(sequences.train_rows()).behavior.tolist()))
    for batch in first:
        assert (batch.label[:, :-1] < 0).all() and (batch.label[:, -1] >= 0).all()
        assert set(map(tuple, batch.behavior.tolist())) <= every


def test_learns_a_chain_that_markov_knows(log):
    chain = log(users=100)
    sequences = Sequences(*chain, LENGTH)
    found = fitted(sequences, epochs=14, windows_per_epoch=3000, learning_rate=0.005)
    check_knows_what_markov_knows(found.model, sequences, chain)
