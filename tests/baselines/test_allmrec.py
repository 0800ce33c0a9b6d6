from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from stages.baselines.language import collaborative, names
from stages.baselines.language.baseline import predictions, write_weights
from stages.baselines.language.names import TEMPLATE, NameSettings, NameVectors, embed_names
from stages.baselines.language.training import mean_loss, summed_loss
from stages.baselines.sequential.sasrec import SASRec, fit_sasrec, item_vectors, user_vectors
from stages.baselines.systems.allmrec import _LOSSES, CODE, ALLMRec, Codes, Settings, fit_codes
from stages.common import tables
from stages.common.files import read_json
from stages.model.likelihood import score
from stages.model.load import load_base
from stages.prompts.layout import prompts
from stages.windows import tested as choice
from tests.baselines.language import ADAPTED, a_sasrec, settings_of, small_task
from tests.small_log import BEHAVIORS

MATCHING = {"matching_learning_rate": 0.003, "matching_batch_size": 8, "matching_epochs": 20}
SETTINGS = {name: value for name, value in ADAPTED.items() if name not in ("dropout", "rank", "alpha")} | MATCHING
NAMES = ("Watching", "Online", "Taking", "Listening", "Reading", "Checking")
SASREC = {"dimensions": [8], "blocks": [1], "heads": [1], "dropout": [0.0], "learning_rate": [0.01],
          "weight_decay": [0.0], "batch_size": [8], "epochs": [2], "warmup": [0]}


def matching(**changes):
    return Settings(**SETTINGS | changes)


@pytest.fixture(autouse=True, scope="module")
def float32():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHAVIORLM_DTYPE", "float32")
        yield


def plainly_named(task):
    """The task with names of one word, each of as many tokens as the next.

    A random model that stays as it is cannot be made to find a long name likely.
    """
    named = pl.col("behavior").replace(dict(zip(BEHAVIORS, NAMES, strict=True)))
    return replace(task, events=task.events.with_columns(named), vocabulary=task.vocabulary.with_columns(named))


def made(tiny_base, folder, trials=1, **changes):
    task = plainly_named(small_task(folder, "allmrec", SETTINGS | changes, trials))
    return ALLMRec(task, tiny_base, a_sasrec(task, folder / "sasrec", context="id"))


@pytest.fixture(scope="module")
def fitted(tiny_base, tmp_path_factory):
    """Fitted with two settings, of which one moves nothing."""
    baseline = made(tiny_base, tmp_path_factory.mktemp("allmrec"), trials=2, learning_rate=[0.01, 1e-9], epochs=[6])
    return baseline.fit()


@pytest.fixture
def codes():
    torch.manual_seed(3)
    return Codes(torch.randn(5, 4), torch.randn(5, 7))


# ---------------------------------------------------------------------------------------------------------------------
# stage 1


def test_losses_are_the_published_ones(codes):
    users, positive, negative = torch.randn(3, 4), torch.tensor([0, 4, 2]), torch.tensor([1, 1, 3])

    def coded(pair, vectors):
        code = 1 / (1 + torch.exp(-(vectors @ pair.encoder.weight.T + pair.encoder.bias)))
        return code, code @ pair.decoder.weight.T + pair.decoder.bias

    expected = dict.fromkeys(("recommendation", "matching", "item", "text"), 0.0)
    for chosen, sign in ((positive, 1), (negative, -1)):
        item, text = codes.item_vectors[chosen], codes.text_vectors[chosen]
        (code, decoded), (text_code, text_decoded) = coded(codes.items, item), coded(codes.texts, text)
        logit = (users * decoded).sum(dim=1) / 4
        expected["recommendation"] += -torch.log(torch.sigmoid(sign * logit)).mean()
        expected["matching"] += ((code - text_code) ** 2).mean()
        expected["item"] += ((decoded - item) ** 2).mean()
        expected["text"] += ((text_decoded - text) ** 2).mean()
    found = codes.losses(users, positive, negative)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    total = expected["recommendation"] + expected["matching"] + 0.5 * expected["item"] + 0.2 * expected["text"]
    torch.testing.assert_close(sum(_LOSSES[name] * loss for name, loss in found.items()), total)
    assert code.shape == (3, CODE)


def test_agreement_is_of_what_tells_behaviours_apart(codes):
    item, text = (pair.encode(vectors) for pair, vectors in
                  ((codes.items, codes.item_vectors), (codes.texts, codes.text_vectors)))
    assert torch.cosine_similarity(item, text).mean() > 0.9, "codes lie around one half: a plain cosine says nothing"
    assert abs(codes.agreement()) < 0.2
    codes.texts, codes.text_vectors = codes.items, codes.item_vectors
    assert codes.agreement() == pytest.approx(1)


def test_the_two_codes_of_a_behaviour_come_to_agree_and_still_rank_for_people():
    torch.manual_seed(0)
    items, texts = torch.randn(6, 8), torch.randn(6, 16)
    label = torch.arange(120) % 6
    users = 3 * items[label]
    seen = [fit_codes(items, texts, users, label, matching(matching_epochs=epochs), 0)
            for epochs in (1, 60)]
    early, late = (codes.agreement() for codes in seen)
    assert late > 0.97 and late > early + 0.1
    _, decoded = seen[1].items(items)
    assert ((3 * items) @ decoded.T).argmax(dim=1).tolist() == list(range(6))
    assert not any(weight.requires_grad for weight in seen[1].parameters())


def test_a_negative_is_any_other_behaviour(monkeypatch):
    drawn = []
    plain = Codes.losses

    def losses(self, users, positive, negative):
        drawn.append(torch.stack([positive, negative]))
        return plain(self, users, positive, negative)

    monkeypatch.setattr(Codes, "losses", losses)
    fit_codes(torch.randn(4, 3), torch.randn(4, 3), torch.randn(200, 3), torch.full((200,), 2),
              matching(matching_epochs=2), 0)
    positive, negative = torch.cat(drawn, dim=1)
    assert (positive == 2).all() and len(positive) == 400
    count = torch.bincount(negative, minlength=4)
    assert count[2] == 0 and (count[[0, 1, 3]] > 100).all()


# ---------------------------------------------------------------------------------------------------------------------
# stage 2


def test_the_language_model_is_the_same_to_the_bit_and_projectors_learned(fitted, tiny_base):
    fresh = load_base(tiny_base)
    found = {name.replace("embed_tokens.words", "embed_tokens"): value
             for name, value in fitted.baseline.model.state_dict().items()}
    assert found.keys() == fresh.state_dict().keys()
    for name, value in fresh.state_dict().items():
        assert torch.equal(found[name], value), name
    trial = fitted.trials[0]
    assert len({len(each) for each in fitted.baseline.layout.answers}) == 1
    assert trial["loss"] < trial["first_loss"] - 0.3 and fitted.settings["learning_rate"] == 0.01
    assert abs(fitted.trials[1]["loss"] - trial["first_loss"]) < 0.01, "a rate of 1e-9 moves nothing"
    assert fitted.score == trial["score"] > fitted.trials[1]["score"] + 0.3, "what follows is the next in turn"
    assert mean_loss(fitted.baseline.model, fitted.baseline.valid) == pytest.approx(trial["loss"], rel=1e-5)


def test_gradients_reach_the_projectors_only(tiny_base, tmp_path):
    baseline = made(tiny_base, tmp_path)
    baseline.build(settings_of(baseline))
    baseline.learn(settings_of(baseline))
    baseline.projector.zero_grad()
    baseline.prepare_vectors()
    loss, _ = summed_loss(baseline.model, [baseline.train[0], baseline.train[1]])
    loss.backward()
    assert all(weight.grad.abs().max() > 0 for weight in baseline.projector.parameters())
    assert baseline.weights().keys() == {f"projector.{name}" for name, _ in baseline.projector.named_parameters()}
    for frozen in (baseline.model, baseline.sasrec, baseline.codes):
        assert all(weight.grad is None and not weight.requires_grad for weight in frozen.parameters())


def test_soft_tokens_are_codes_of_behaviours_and_states_of_people(tiny_base, tmp_path):
    baseline = made(tiny_base, tmp_path)
    baseline.build(settings_of(baseline))
    (ids,) = prompts(baseline.layout, [220])
    baseline.prepare_vectors()
    person = ids[-1] - baseline.embedding.first
    assert baseline.layout.users[person - baseline.layout.items] == (214, 220)
    found = baseline.embedding.source(torch.tensor([3, baseline.layout.items - 1, person]))
    state = user_vectors(baseline.sasrec, baseline.task.sequences, [(214, 220)])
    vectors = item_vectors(baseline.sasrec)[[3, len(baseline.layout.candidates)]]
    code = torch.sigmoid(baseline.codes.items.encoder(vectors))
    torch.testing.assert_close(found[:2], baseline.projector.items(code))
    torch.testing.assert_close(found[2:], baseline.projector.users(state))
    length = baseline.embedding.mean_norm()
    assert baseline.projector.items(baseline.item_codes).norm(dim=1).mean().item() == pytest.approx(length, rel=1e-4)
    parts = baseline.projector.items, baseline.projector.users
    kinds = [[type(layer).__name__ for layer in part.net] for part in parts]
    assert kinds == [["Linear", "LayerNorm", "GELU", "Linear"], ["Linear", "LayerNorm", "LeakyReLU", "Linear"]]


def test_answers_change_with_the_person_and_with_whose_code_a_behaviour_has(tiny_base, tmp_path):
    baseline = made(tiny_base, tmp_path, matching_epochs=5)
    baseline.build(settings_of(baseline))
    asked = prompts(baseline.layout, [210, 215, 220])

    def scores(codes, users):
        baseline.item_codes, baseline._states = codes, users
        baseline.prepare_vectors()
        return score(baseline.model, asked, baseline.layout.answers).log_p

    codes, users = baseline.item_codes, baseline.states
    before = scores(codes, users)
    assert abs(scores(codes, users) - before).max() < 1e-6
    assert abs(scores(codes.roll(2, dims=0), users) - before).max() > 3e-4
    assert abs(scores(codes, users.roll(1, dims=0)) - before).max() > 0.03


def test_predictions_and_weights(fitted, tmp_path):
    task = fitted.baseline.task
    wanted = choice.tested(task.events, task.windows, task.params.predictions, 0).head(6)
    frame, facts = predictions(fitted, task, wanted)
    assert frame.schema == tables.SCHEMAS["predictions"] and facts["layout"] == "stream"
    np.testing.assert_allclose(np.exp(np.array(frame["log_p"].to_list())).sum(axis=1), 1, atol=1e-5)
    assert facts["trained_parameters"] == sum(p.numel() for p in fitted.baseline.projector.parameters())
    write_weights(fitted, tmp_path / "allmrec")
    assert {path.name for path in (tmp_path / "allmrec").iterdir()} == {
        "SHA256SUMS", "base.json", "projector.safetensors", "settings.json"}
    saved = load_file(tmp_path / "allmrec" / "projector.safetensors")
    assert saved.keys() == fitted.baseline.projector.state_dict().keys()
    assert read_json(tmp_path / "allmrec" / "settings.json")["matching_epochs"] == 20


def test_without_a_sasrec_one_is_fitted_as_published(tiny_base, tmp_path, monkeypatch):
    asked = []

    def spy(task, objective):
        asked.append((task.context, objective))
        return fit_sasrec(task, objective)

    monkeypatch.setattr(collaborative, "fit_sasrec", spy)
    task = small_task(tmp_path, "allmrec", SETTINGS | {"matching_epochs": 1})
    with open(task.settings_file, "a") as file:
        YAML().dump({"sasrec": SASREC}, file)
    baseline = ALLMRec(replace(task, context="history"), tiny_base, None)
    assert asked == [("id", "bce")] and isinstance(baseline.sasrec, SASRec) and baseline.sasrec.objective == "bce"
    assert baseline.layout.context == "history" and not baseline.sasrec.training
    assert not any(weight.requires_grad for weight in baseline.sasrec.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# names


def test_by_default_the_language_model_reads_the_names(fitted, tiny_base):
    baseline = fitted.baseline
    wanted = embed_names(NAMES, NameSettings(encoder="base", revision=""), tiny_base)
    assert baseline.layout.candidates == list(NAMES)
    np.testing.assert_array_equal(baseline.codes.text_vectors.numpy(), wanted.vectors)
    assert [trial["names"] for trial in fitted.trials] == [wanted.facts()] * 2


def test_the_encoder_that_the_settings_name_reads_the_names(tiny_base, tmp_path, monkeypatch):
    asked, vectors = [], np.random.default_rng(0).normal(size=(len(NAMES), 5)).astype(np.float32)

    def other(texts, settings):
        asked.append((texts, settings))
        return NameVectors(vectors, "another encoder")

    monkeypatch.setattr(names, "_sentence_transformer", other)
    task = plainly_named(small_task(tmp_path, "allmrec", SETTINGS | {"matching_epochs": 1}))
    text = task.settings_file.read_text("utf-8").replace("encoder: base", "encoder: some/model")
    task.settings_file.write_text(text, "utf-8")
    baseline = ALLMRec(task, tiny_base, a_sasrec(task, tmp_path / "sasrec", context="id"))
    ((texts, settings),) = asked
    assert texts == [TEMPLATE.format(name=name) for name in NAMES] and settings.encoder == "some/model"
    np.testing.assert_array_equal(baseline.codes.text_vectors.numpy(), vectors)
    assert baseline.names.facts()["encoder"] == "another encoder"
