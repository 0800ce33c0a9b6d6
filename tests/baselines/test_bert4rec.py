from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.baselines.fitting.sequences import NO_LABEL, Sequences
from stages.baselines.fitting.settings import Budget, read_settings
from stages.baselines.sequential.training import fit
from stages.baselines.systems.bert4rec import BERT4Rec, Settings, draw_mask, fit_bert4rec, refuse_constant, with_target
from stages.common.errors import UserError
from tests.baselines.laws import (
    CONTEXTS,
    check_knows_what_markov_knows,
    check_padding_changes_nothing,
    check_reads,
    labels_of,
    one_batch,
)

LENGTH = 8
SETTINGS = {"dimensions": 16, "blocks": 2, "heads": 2, "dropout": 0.1, "masked": 0.3, "maskings": 2,
            "learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 32, "epochs": 8, "warmup": 10}
VALUES = Settings(**{name: [value] for name, value in SETTINGS.items()})
# a masking teaches few labels, so this baseline needs more steps than the others
LEARNS = {"blocks": 1, "dropout": 0.0, "masked": 0.4, "maskings": 4, "learning_rate": 0.003, "batch_size": 16,
          "epochs": 40}
BUDGET = Budget(trials=1, valid_windows=200, patience=12, windows_per_validation=1)


@pytest.fixture
def sequences(log):
    return Sequences(*log(users=20, each=40), LENGTH)


def untrained(sequences, context="next"):
    torch.manual_seed(0)
    return BERT4Rec(sequences, SETTINGS, context).eval()


def generator():
    return torch.Generator().manual_seed(0)


def test_the_target_is_appended_with_its_own_time_and_place(log):
    events, windows, vocabulary = log(users=20, each=40)
    sequences, rows = Sequences(events, windows, vocabulary, LENGTH), np.array([5, 39, 46])
    batch = with_target(sequences.windows(rows))
    assert batch.behavior.shape == (3, LENGTH + 1)
    assert batch.hour[:, -1].tolist() == events["time"].dt.hour().gather(rows).to_list()
    assert batch.behavior[:, -1].tolist() == labels_of(events, rows, vocabulary).tolist()
    assert (batch.behavior[~batch.padding] < sequences.size).all() and batch.padding[0].sum() == LENGTH - 5


@CONTEXTS
def test_the_target_is_not_looked_at_and_the_history_is(sequences, context):
    model, batch = untrained(sequences, context), sequences.windows(np.arange(5, 30))
    before = model.log_p(batch)
    other = replace(batch, label=torch.where(batch.label == NO_LABEL, batch.label, (batch.label + 1) % sequences.size))
    assert torch.equal(before, model.log_p(other)) and not torch.equal(batch.label, other.label)
    assert torch.equal(before, model.log_p(replace(batch, label=torch.full_like(batch.label, NO_LABEL))))
    first = batch.behavior.clone()
    first[:, -2] = (first[:, -2] + 1) % sequences.size
    assert not torch.allclose(before, model.log_p(replace(batch, behavior=first)))


def test_no_masked_behaviour_is_looked_at_and_the_others_are_from_both_sides(sequences):
    model, batch = untrained(sequences), with_target(one_batch(sequences))
    masked = torch.zeros_like(batch.padding)
    masked[:, 4] = masked[:, 6] = True
    before = model(batch, masked)
    for position, seen in ((3, True), (4, False), (5, True), (6, False), (8, True)):
        behavior = batch.behavior.clone()
        behavior[:, position] = (behavior[:, position] + 1) % sequences.size
        assert torch.equal(before, model(replace(batch, behavior=behavior), masked)) == (not seen)


@pytest.mark.parametrize(
    ("context", "fields_read"),
    [("id", set()), ("history", {"hour", "place"}), ("next", {"hour", "place", "next_hour", "next_place"})],
)
def test_a_context_mode_reads_what_its_name_says(sequences, context, fields_read):
    fields = {"hour": 24, "place": 2, "next_hour": 24, "next_place": 2}
    check_reads(untrained(sequences, context).log_p, sequences.windows(np.arange(20, 30)), fields_read, fields)


@pytest.mark.parametrize(("context", "shown"), [("history", False), ("next", True)])
def test_a_masked_event_of_the_history_shows_its_own_time_only_where_the_next_one_s_is_read(sequences, context, shown):
    model, batch = untrained(sequences, context), with_target(one_batch(sequences))
    masked = torch.zeros_like(batch.padding)
    masked[:, 4] = True
    hour = batch.hour.clone()
    hour[:, 4] = (hour[:, 4] + 1) % 24
    assert torch.equal(model(batch, masked), model(replace(batch, hour=hour), masked)) == (not shown)


def test_padding_changes_nothing(sequences):
    check_padding_changes_nothing(untrained(sequences).log_p, sequences)


def test_only_training_labels_are_masked_and_learned(sequences):
    batch = with_target(one_batch(sequences))
    drawn = torch.stack([draw_mask(batch.label, 0.4, generator().manual_seed(seed)) for seed in range(60)])
    assert (batch.label[:, 0] == NO_LABEL).all() and torch.equal(drawn.any(dim=0), batch.label != NO_LABEL)
    assert torch.equal(batch.label[drawn[0]], batch.behavior[drawn[0]])
    # an event that is no label is never masked, and the loss is that of those that are
    model, once = untrained(sequences), one_batch(sequences)
    unlabelled = replace(once, label=torch.where(torch.arange(LENGTH) < 3, NO_LABEL, once.label))
    expected = with_target(unlabelled)
    masked = draw_mask(expected.label.repeat(2, 1), 0.3, generator())
    assert not masked[:, :4].any()
    twice = expected.by_position(lambda field: field.repeat(2, 1))
    own = -model(twice, masked).log_softmax(dim=-1).gather(1, twice.label[masked][:, None]).mean()
    assert model.loss(unlabelled, generator()).item() == pytest.approx(own.item(), rel=1e-5)


def test_half_of_the_sequences_mask_the_last_alone_and_the_others_a_share_of_all():
    masked = draw_mask(torch.zeros(4000, 21, dtype=torch.long), 0.3, generator())
    count = masked.sum(dim=1)
    alone = (count == 1) & masked[:, -1]
    assert (count >= 1).all() and alone.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert masked[~alone].float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert masked[~alone][:, -1].float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_scores_are_of_the_behaviours_alone(sequences):
    model, batch = untrained(sequences), sequences.windows(np.arange(5, 12))
    assert model.log_p(batch).shape == (7, sequences.size)
    before = model.log_p(batch)
    with torch.no_grad():
        model.embedder.behaviors.weight[sequences.size + 1].normal_()  # padding's vector, neither a score nor an input
    assert torch.allclose(before, model.log_p(batch), atol=1e-5)
    with torch.no_grad():
        model.embedder.behaviors.weight[sequences.size + 2].normal_()  # the mask's, which is an input alone
    after = model.log_p(batch)
    assert torch.allclose(after.exp().sum(dim=1), torch.ones(7)) and not torch.allclose(before, after)


def test_learns_a_chain_that_markov_knows(log):
    chain = log(users=100)
    sequences = Sequences(*chain, LENGTH)
    values = Settings(**{name: [value] for name, value in (SETTINGS | LEARNS).items()})
    found = fit("test", lambda settings: BERT4Rec(sequences, settings, "next"), sequences, values, BUDGET, 0)
    check_knows_what_markov_knows(found.model, sequences, chain)


class _Task:
    """What `fit_bert4rec` needs of a task."""

    def __init__(self, sequences, **changes):
        self.sequences, self.context, self.changes = sequences, "next", changes
        self.seed = 0

    def settings(self, section, kind):
        return BUDGET, VALUES.model_copy(update={name: [value] for name, value in self.changes.items()})


def test_a_fit_that_answers_all_windows_alike_is_refused(sequences, monkeypatch):
    class Constant(BERT4Rec):
        def forward(self, batch, masked):
            return self.bias.expand(int(masked.sum()), -1)

    monkeypatch.setattr("stages.baselines.systems.bert4rec.BERT4Rec", Constant)
    with pytest.raises(UserError, match=r"BERT4Rec \(next\): collapsed: it answers '.' in 70 of 70"):
        fit_bert4rec(_Task(sequences, epochs=2))


def test_a_fit_that_tells_windows_apart_is_not_refused(sequences):
    assert fit_bert4rec(_Task(sequences, epochs=3)).score > 0.4


def test_one_answer_is_a_collapse_only_where_labels_differ():
    constant, label, names = np.ones(200, dtype=int), np.arange(200) % 3, ["a", "b", "c"]
    with pytest.raises(UserError, match="'b' in 200 of 200"):
        refuse_constant("x", constant, label, names)
    refuse_constant("x", constant, constant, names)
    refuse_constant("x", np.where(np.arange(200) < 20, 0, 1), label, names)


def test_the_settings_that_come_with_the_project_are_read():
    _, values = read_settings(Path("stages/baselines/params.yaml"), "bert4rec", Settings)
    assert all(0.2 <= share <= 0.4 for share in values.masked)
