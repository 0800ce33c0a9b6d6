from pathlib import Path

import numpy as np
import pytest
import torch

from stages.baselines.fitting.sequences import NO_LABEL, Sequences
from stages.baselines.fitting.settings import Budget, read_settings
from stages.baselines.sequential.training import fit, predict, trained_parameters
from stages.baselines.systems.gpt2 import GPT2, Settings
from tests.baselines.laws import (
    CONTEXTS,
    FIELDS_READ,
    check_nothing_depends_on_a_later_behavior,
    check_padding_changes_nothing,
    check_reads,
    labels_of,
    one_batch,
    rows_of,
)

LENGTH = 8
SETTINGS = {"dimensions": 16, "blocks": 2, "heads": 2, "dropout": 0.0, "learning_rate": 0.01, "weight_decay": 0.0,
            "batch_size": 64, "epochs": 6, "warmup": 5}


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture
def sequences(log):
    return Sequences(*log(users=20, each=40), LENGTH)


def untrained(sequences, context="next", objective="ce"):
    torch.manual_seed(0)
    return GPT2(sequences, SETTINGS, context, objective).eval()


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("objective", "expected"), [("bce", 2 * np.log(2)), ("ce", np.log(5))])
def test_knows_nothing_before_the_first_step(sequences, objective, expected):
    assert sequences.size == 5
    model, batch = untrained(sequences, objective=objective), one_batch(sequences, 64)
    assert model.loss(batch, generator()).item() == pytest.approx(expected, abs=0.05)


@CONTEXTS
def test_no_score_depends_on_a_later_behaviour(sequences, context):
    check_nothing_depends_on_a_later_behavior(untrained(sequences, context), one_batch(sequences, 64), sequences.size)


@FIELDS_READ
def test_a_context_mode_reads_what_its_name_says(sequences, context, fields_read):
    check_reads(untrained(sequences, context), one_batch(sequences, 64), fields_read)


def test_padding_changes_nothing(sequences):
    model = untrained(sequences)
    check_padding_changes_nothing(model.log_p, sequences)
    model.train().loss(one_batch(sequences, 64), generator()).backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())


def test_positions_count_from_the_first_event(sequences):
    model, batch = untrained(sequences, "id"), sequences.windows(np.array([5]))
    with torch.no_grad():
        model.body.wpe.weight[5:].normal_()
        before = model.log_p(batch)
        model.body.wpe.weight[5:].normal_()
        assert torch.equal(before, model.log_p(batch))
        model.body.wpe.weight[4].normal_()
        assert not torch.equal(before, model.log_p(batch))


def test_every_parameter_is_trained_and_there_is_one_table_of_positions(sequences):
    model = untrained(sequences)
    model.loss(one_batch(sequences, 64), generator()).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    block, tables = 12 * 16**2 + 13 * 16, (5 + 3) + 2 * sum(sequences.contexts) + LENGTH
    assert trained_parameters(model) == 2 * block + 2 * 16 + 16 * tables


def test_a_small_one_learns_fifty_windows_by_heart(log):
    events, windows, vocabulary = log(users=20, each=40)
    few = windows.filter((windows["split"] == "valid") | (windows["row"] < 60))
    sequences = Sequences(events, few, vocabulary, LENGTH)
    rows = rows_of(few, "train")
    assert len(rows) == 50
    torch.manual_seed(0)
    model, rng = GPT2(sequences, SETTINGS | {"dimensions": 32}, "next", "ce"), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for _ in range(120):
        for batch in sequences.epoch(64, rng):
            optimizer.zero_grad()
            model.loss(batch, generator()).backward()
            optimizer.step()
    accuracy = (predict(model, sequences, rows).argmax(axis=1) == labels_of(events, rows, vocabulary)).mean()
    assert accuracy > 0.95


def test_learns_more_than_shares(sequences):
    rows = sequences.valid_rows(200, 0)
    values = Settings(**{name: [value] for name, value in (SETTINGS | {"batch_size": 16, "epochs": 25}).items()})
    budget = Budget(trials=1, valid_windows=200, patience=25, windows_per_validation=1)
    found = fit("test", lambda settings: GPT2(sequences, settings, "next", "ce"), sequences, values, budget, 0)
    label = sequences.windows(rows).label[:, -1].numpy()
    most = np.bincount(label[label != NO_LABEL]).max() / len(label)
    assert (predict(found.model, sequences, rows).argmax(axis=1) == label).mean() > most + 0.1


def test_bfloat16_changes_little_and_scores_stay_float32(sequences, monkeypatch):
    model, batch = untrained(sequences), one_batch(sequences, 64)
    exact = model(batch)
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "bfloat16")
    rounded = model(batch)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded) and torch.allclose(exact, rounded, atol=0.02)


def test_the_settings_that_come_with_the_project_are_of_gpt_2_small():
    _, values = read_settings(Path("stages/baselines/params.yaml"), "gpt2", Settings)
    assert (values.dimensions, values.blocks, values.heads) == ([768], [12], [12])
