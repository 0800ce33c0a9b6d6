import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.baselines.fitting.sequences import NO_LABEL, Sequences
from stages.baselines.fitting.settings import Budget, read_settings
from stages.baselines.sequential.training import fit, reciprocal_rank
from stages.baselines.systems import pituning
from stages.baselines.systems.pituning import (
    IntentAttention,
    PITuning,
    Settings,
    draw_events,
    excess,
    first_blocks,
    own_labels,
    unlearn,
    unlearning_loss,
)
from stages.common import tables
from stages.common.errors import UserError
from stages.model.load import load_base
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
SETTINGS = {"dimensions": 16, "attention": 8, "blocks": 1, "pretrained": True, "body_learning_rate": 0.001,
            "masked": 0.3, "reconstruction": 0.5, "dropout": 0.0, "learning_rate": 0.01, "weight_decay": 0.0,
            "batch_size": 32, "epochs": 8, "warmup": 0}
FORGET = {"forget_above": 0.02, "forget_until": 2.0, "forget_steps": 30, "forget_rate": 0.003, "forget_tolerance": 0.02}
BUDGET = Budget(trials=1, valid_windows=200, patience=12, windows_per_validation=1)


def values_with(**changes):
    return Settings(**{name: [value] for name, value in (SETTINGS | changes).items() if name not in FORGET},
                    **(FORGET | {name: value for name, value in changes.items() if name in FORGET}))


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(tiny_base, torch.float32)


@pytest.fixture
def sequences(log):
    return Sequences(*log(users=20, each=40), LENGTH)


def untrained(sequences, base, context="next", **changes):
    torch.manual_seed(0)
    return PITuning(sequences, SETTINGS | changes, context, base).eval()


def generator():
    return torch.Generator().manual_seed(0)


def test_intents_attend_as_the_formulas_say():
    torch.manual_seed(0)
    attention = IntentAttention(size=3, dimensions=4, attention=5, length=6)
    torch.nn.init.normal_(attention.distance)
    torch.nn.init.normal_(attention.score.weight)
    hidden, padding = torch.randn(2, 5, 4), torch.tensor([[True, True, False, False, False], [False] * 5])
    scores = attention(hidden, padding, latest=5)
    for b, t, i in [(0, 2, 0), (0, 4, 1), (1, 0, 2), (1, 3, 0), (1, 4, 2)]:
        q, first, past = attention.intents.weight[i], int(padding[b].sum()), hidden[b]
        inner = [attention.unit(torch.cat([q, q * h, h])) for h in past[first : t + 1]]
        energy = attention.energy(attention.activation(torch.stack(inner)))[:, 0]
        energy = energy + attention.distance[: t + 1 - first].flip(0)
        c = energy.softmax(dim=0) @ hidden[b, first : t + 1]
        assert scores[b, t, i].item() == pytest.approx(attention.score(torch.cat([c, q * c, q])).item(), abs=1e-5)
    assert torch.allclose(attention(hidden, padding, latest=2), scores[:, -2:], atol=1e-6)


def test_one_event_of_history_can_rank_intents_in_any_order():
    torch.manual_seed(0)
    attention, hidden = IntentAttention(size=3, dimensions=4, attention=5, length=6), torch.randn(50, 1, 4)
    best = attention(hidden, torch.zeros(50, 1, dtype=torch.bool), latest=1)[:, 0].argmax(dim=-1)
    assert len(best.unique()) == 3


def test_predictions_are_the_same_in_parts_as_in_one(sequences, base, monkeypatch):
    model, batch = untrained(sequences, base), sequences.windows(np.arange(5, 22))
    whole, parts, plain = model.log_p(batch), [], model.intents.forward

    def spy(hidden, padding, latest):
        parts.append(len(hidden))
        return plain(hidden, padding, latest)

    monkeypatch.setattr(model.intents, "forward", spy)
    for windows, expected in ((5, [5, 5, 5, 2]), (0.5, [1] * 17), (1000, [17])):
        numbers = windows * LENGTH * SETTINGS["attention"] * sequences.size
        monkeypatch.setattr(pituning, "_NUMBERS_AT_ONCE", int(numbers))
        assert torch.allclose(model.log_p(batch), whole, atol=1e-6) and parts == expected
        parts.clear()


@CONTEXTS
def test_no_score_depends_on_a_later_behaviour(sequences, base, context):
    model, batch = untrained(sequences, base, context), one_batch(sequences, 32)
    check_nothing_depends_on_a_later_behavior(model, batch, sequences.size, rounding=1e-6, change=1e-4)


@FIELDS_READ
def test_a_context_mode_reads_what_its_name_says(sequences, base, context, fields_read):
    check_reads(untrained(sequences, base, context), one_batch(sequences, 32), fields_read)


def test_padding_changes_nothing(sequences, base):
    check_padding_changes_nothing(untrained(sequences, base).log_p, sequences)


def test_bfloat16_changes_little_and_scores_stay_float32(sequences, base, monkeypatch):
    model, batch = untrained(sequences, base), one_batch(sequences, 32)
    exact = model(batch)
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "bfloat16")
    rounded = model(batch)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded) and torch.allclose(exact, rounded, atol=0.05)


def test_a_reconstruction_sees_what_came_before_and_its_own_context_and_not_its_behaviour(sequences, base):
    model, batch = untrained(sequences, base, "history"), one_batch(sequences, 32)
    masked = torch.zeros_like(batch.padding)
    masked[:, 4] = True
    before = model.reconstruct(batch, masked)
    assert before.shape == (len(batch.label), sequences.size)
    for position, seen in ((3, True), (4, False), (5, False)):
        behavior = batch.behavior.clone()
        behavior[:, position] = (behavior[:, position] + 1) % sequences.size
        other = model.reconstruct(replace(batch, behavior=behavior), masked)
        assert torch.allclose(before, other, atol=1e-6) == (not seen)
    hour = batch.hour.clone()
    hour[:, 4] = (hour[:, 4] + 1) % 24
    assert not torch.allclose(before, model.reconstruct(replace(batch, hour=hour), masked), atol=1e-6)


def test_only_training_labels_are_reconstructed(sequences):
    batch = one_batch(sequences, 32)
    drawn = torch.stack([draw_events(batch, 0.3, generator().manual_seed(seed)) for seed in range(60)])
    own = own_labels(batch)
    assert torch.equal(drawn.any(dim=0), own != NO_LABEL) and (own[:, 0] == NO_LABEL).all()
    assert torch.equal(own[drawn[0]], batch.behavior[drawn[0]])
    assert drawn[:, own != NO_LABEL].float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_the_loss_is_of_the_labels_and_half_of_the_reconstruction(sequences, base):
    model, batch = untrained(sequences, base), one_batch(sequences, 32)
    whole, labels = (
        untrained(sequences, base, reconstruction=weight).loss(batch, generator()).item() for weight in (0.5, 0)
    )
    masked = draw_events(batch, SETTINGS["masked"], generator())
    log_p = model.reconstruct(batch, masked).log_softmax(dim=-1)
    own = -log_p.gather(1, batch.behavior[masked][:, None]).mean().item()
    assert whole == pytest.approx(labels + 0.5 * own, rel=1e-5)
    known = batch.label != NO_LABEL
    expected = -model(batch).log_softmax(dim=-1)[known].gather(1, batch.label[known][:, None]).mean().item()
    assert labels == pytest.approx(expected, rel=1e-5)


def test_the_body_is_the_first_blocks_of_the_base_or_random_ones_of_the_same_shape(base):
    own, given = first_blocks(base, 1, True).state_dict(), base.base_model.state_dict()
    assert not any("embed" in name or "layers.1" in name for name in own) and len(own) > 5
    assert all(torch.equal(weight, given[name]) for name, weight in own.items())
    random = first_blocks(base, 1, False).state_dict()
    assert random.keys() == own.keys()
    assert not any(torch.equal(weight, own[name]) for name, weight in random.items() if weight.ndim == 2)
    whole, vectors = first_blocks(base, 2, True).eval(), torch.randn(2, 4, 64)
    with torch.no_grad():
        expected = base.base_model.eval()(inputs_embeds=vectors).last_hidden_state
        assert torch.allclose(whole(inputs_embeds=vectors).last_hidden_state, expected, atol=1e-5)
    with pytest.raises(UserError, match="pituning.blocks: 3: the base model has 2; at most that many"):
        first_blocks(base, 3, True)


def test_the_base_is_left_alone_and_the_body_has_its_own_rate(sequences, base):
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    model = untrained(sequences, base)
    new, body = model.parameter_groups(SETTINGS)
    assert "lr" not in new and body["lr"] == SETTINGS["body_learning_rate"]
    assert {id(each) for each in body["params"]} == {id(each) for each in model.body.parameters()}
    assert len(new["params"]) + len(body["params"]) == len(list(model.parameters()))
    make = lambda settings: PITuning(sequences, settings, "next", base)  # noqa: E731
    start = make(SETTINGS).body.state_dict()
    for rate, changed in ((1e-12, False), (1e-2, True)):
        found = fit("test", make, sequences, values_with(epochs=1, body_learning_rate=rate), BUDGET, 0).model
        after = found.body.state_dict()
        assert any(not torch.allclose(weight, after[name]) for name, weight in start.items()) == changed
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())


def test_no_parameter_is_idle(sequences, base):
    model = untrained(sequences, base).train()
    model.loss(one_batch(sequences, 32), generator()).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@pytest.fixture(scope="module")
def fitted(log, base):
    """A model fitted on the chain, and what it was fitted on."""
    tables_of = log(users=100)
    sequences = Sequences(*tables_of, LENGTH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHAVIORLM_DTYPE", "float32")
        make = lambda settings: PITuning(sequences, settings, "next", base)  # noqa: E731
        found = fit("test", make, sequences, values_with(), BUDGET, 0)
    return found, sequences, tables_of


def test_learns_a_chain_that_markov_knows(fitted):
    found, sequences, chain = fitted
    check_knows_what_markov_knows(found.model, sequences, chain)


def test_reconstructs_better_than_shares_do(log, base):
    sequences = Sequences(*log(users=60), LENGTH)
    # the validation that predicts best comes before the reconstruction has settled: trained on without validations
    model, rng, draws = untrained(sequences, base, reconstruction=2.0).train(), np.random.default_rng(0), generator()
    optimizer = torch.optim.AdamW(model.parameter_groups(SETTINGS), lr=0.01)
    for _ in range(25):
        for batch in sequences.epoch(32, rng):
            optimizer.zero_grad()
            model.loss(batch, draws).backward()
            optimizer.step()
    batch = sequences.windows(sequences.valid_rows(300, 0))
    masked = torch.zeros_like(batch.padding)
    masked[:, -1] = batch.behavior[:, -1] < sequences.size
    with torch.no_grad():
        scores = model.eval().reconstruct(batch, masked)
    right = (scores.argmax(dim=-1) == batch.behavior[masked]).float().mean()
    assert right > np.bincount(batch.behavior[masked]).max() / len(scores) + 0.1


def test_unlearning_lowers_what_is_predicted_too_often_and_validation_holds(fitted):
    found, sequences, _ = fitted
    model, rows, values = found.model, sequences.valid_rows(400, 0), values_with()
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    # a model that says `a` too often
    with torch.no_grad():
        alone = model.intents.score.weight[0, 2 * SETTINGS["dimensions"] :]
        model.intents.intents.weight[0] += alone / alone.norm() ** 2  # about one nat
    facts = unlearn(model, sequences, rows, values, batch_size=32, seed=0)
    assert sequences.names[0] in facts["forgotten"].split("; ") and facts["forget_steps_kept"] > 0
    assert facts["excess_before"] > 0.02 and facts["excess_after"] < facts["excess_before"] / 2
    assert facts["score_after"] >= facts["score_before"] - values.forget_tolerance
    assert facts["score_after"] == pytest.approx(reciprocal_rank(model, sequences, rows))
    model.load_state_dict(kept)


def test_unlearning_that_costs_too_much_is_undone(fitted):
    found, sequences, _ = fitted
    before = {name: weight.clone() for name, weight in found.model.state_dict().items()}
    values = values_with(forget_above=0.0, forget_rate=0.5, forget_tolerance=0.0)
    facts = unlearn(found.model, sequences, sequences.valid_rows(400, 0), values, batch_size=32, seed=0)
    assert facts["forgotten"] and facts["forget_steps_kept"] == 0 and facts["score_after"] == facts["score_before"]
    assert all(torch.equal(weight, before[name]) for name, weight in found.model.state_dict().items())


def test_nothing_is_unlearned_where_nothing_is_predicted_too_often(fitted):
    found, sequences, _ = fitted
    values = values_with(forget_above=1.0)
    facts = unlearn(found.model, sequences, sequences.valid_rows(400, 0), values, batch_size=32, seed=0)
    assert facts["forgotten"] == "" and facts["forget_steps_kept"] == 0


def test_excess_is_of_predictions_over_labels():
    found = excess(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 1]), 4)
    assert found.tolist() == [0.5, -0.25, -0.25, 0]


def test_unlearning_is_bounded_and_touches_wrong_predictions_of_the_forgotten_alone():
    scores = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [0, 2.0, 0], [0, 0, 0]], requires_grad=True)
    label, forget = torch.tensor([0, 1, 2, NO_LABEL]), np.array([0])
    log_p = scores.detach().log_softmax(dim=-1)
    loss = unlearning_loss(scores, label, forget, until=5.0)
    assert loss.item() == pytest.approx(((-log_p[0, 0] - log_p[2, 2] + log_p[1, 0]) / 3).item())
    loss.backward()
    # a step down lowers the wrong prediction of 0, and raises the labels elsewhere
    assert scores.grad[1, 0] > 0 and scores.grad[0, 0] < 0 and scores.grad[2, 2] < 0 and (scores.grad[3] == 0).all()
    scores.grad = None
    unlearning_loss(scores, label, forget, until=0.01).backward()
    assert (scores.grad[1] == 0).all() and scores.grad[0, 0] < 0


def test_the_settings_that_come_with_the_project_are_read():
    _, values = read_settings(Path("stages/baselines/params.yaml"), "pituning", Settings)
    assert values.pretrained == [True] and values.reconstruction == [0.5]
    assert all(0.15 <= share <= 0.3 for share in values.masked)


def test_the_command_writes_predictions_weights_and_what_was_unlearned(log, tiny_base, tmp_path, monkeypatch):
    paths = []
    for name, table in zip(("events", "windows", "vocabulary"), log(users=20, each=40), strict=True):
        tables.write(table, name, tmp_path / f"{name}.parquet")
        paths += [f"--{name}", str(tmp_path / f"{name}.parquet")]
    budget = {"trials": 1, "valid_windows": 50, "patience": 1, "windows_per_validation": 1}
    settings = {"budget": budget, "pituning": values_with(epochs=1).model_dump()}
    (tmp_path / "settings.yaml").write_text(json.dumps(settings), encoding="utf-8")  # which is YAML, too
    arguments = ["--context", "next", "--objective", "unlearned", "--model", str(tiny_base)]
    for name, file in (("settings", "settings.yaml"), ("out", "p.parquet"), ("weights", "w"), ("counts", "m.json")):
        arguments += [f"--{name}", str(tmp_path / file)]
    monkeypatch.setattr(sys, "argv", ["pituning", *paths, *arguments])
    pituning.STAGE.main()
    facts = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert {"forgotten", "forget_steps_kept", "score_before", "score_after"} <= facts["unlearning"].keys()
    assert facts["settings"].keys() == values_with().model_dump().keys()
    predictions = tables.read("predictions", tmp_path / "p.parquet")
    assert len(predictions) == facts["windows"] > 0 and np.isfinite(np.stack(predictions["log_p"].to_list())).all()
    assert not any("embed_tokens" in name for name in load_file(tmp_path / "w" / "model.safetensors"))
