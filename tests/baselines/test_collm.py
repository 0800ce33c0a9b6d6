import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.baselines.language.baseline import predictions, write_weights
from stages.baselines.language.training import lora_weights, mean_loss, summed_loss
from stages.baselines.sequential.sasrec import user_vectors
from stages.baselines.systems import collm
from stages.baselines.systems.collm import CoLLM
from stages.common import tables
from stages.windows import tested as choice
from tests.baselines.language import ADAPTED, a_sasrec, settings_of, small_task

SETTINGS = ADAPTED | {"mapping_learning_rate": [0.003], "mapping_epochs": [3], "mapping_weight_decay": 0.0,
                      "mapping_warmup": 0.1, "mapping_least_rate": 0.1}


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


def made(loud_base, folder, trials=1, **changes):
    task = small_task(folder, "collm", SETTINGS | changes, trials)
    return CoLLM(task, loud_base, a_sasrec(task, folder / "sasrec"))


def named(sample):
    """Its labelled tokens and their labels, in order."""
    return [pair for pair in zip(sample["input_ids"], sample["labels"], strict=True) if pair[1] >= 0]


def test_stage_1_reads_words_alone_and_stage_2_trains_the_mapping_only(loud_base, tmp_path):
    baseline = made(loud_base, tmp_path)
    settings = settings_of(baseline)
    baseline.build(settings)
    text_loss = baseline.first_stage("words", settings, "", baseline.words["train"], baseline.words["valid"])
    for split, soft in (("train", baseline.train), ("valid", baseline.valid)):
        for words, sample in zip(baseline.words[split], soft, strict=True):
            assert words["input_ids"] == [token for token in sample["input_ids"] if token < baseline.layout.size]
            assert words["length"] == len(words["input_ids"]) < sample["length"]
            assert named(words) == named(sample) != []
    adapter = {name: weight.detach().clone() for name, weight in lora_weights(baseline.model).items()}
    assert any(weight.abs().max() > 0 for name, weight in adapter.items() if "lora_B" in name)
    assert mean_loss(baseline.model, baseline.words["valid"]) == pytest.approx(text_loss, rel=1e-6)
    baseline.prepare_vectors()
    with_vectors = mean_loss(baseline.model, baseline.valid)
    assert abs(with_vectors - text_loss) > 1e-4
    facts = baseline.learn(settings)
    assert facts["text_loss"] == text_loss and facts["first_mapping_loss"] == pytest.approx(with_vectors, rel=1e-6)
    for name, weight in lora_weights(baseline.model).items():
        assert torch.equal(weight, adapter[name]), "stage 2 leaves the adapter alone"
    baseline.projector.zero_grad()
    baseline.projector.used.fill_(1)
    baseline.prepare_vectors()
    loss, _ = summed_loss(baseline.model, [baseline.train[0], baseline.train[1]])
    loss.backward()
    assert all(weight.grad is None for weight in baseline.model.parameters())
    assert all(weight.grad is None for weight in baseline.sasrec.parameters())
    assert all(weight.grad.abs().max() > 0 for weight in baseline.projector.parameters())


@pytest.mark.parametrize("rate", [0.003, 1e-9])
def test_stage_2_is_kept_where_it_lowers_the_validation_loss_and_only_there(loud_base, tmp_path, rate, monkeypatch):
    if rate == 1e-9:  # every validation of stage 2 is with vectors that drown the words
        plain = collm.Mapping

        def loud(features, hidden, length):
            return plain(features, hidden, 1e4 * length)

        monkeypatch.setattr(collm, "Mapping", loud)
    # where stage 2 is to be of use, stage 1 learns next to nothing
    stage_1 = {"learning_rate": [0.03], "epochs": [6]} if rate == 1e-9 else {"learning_rate": [1e-6]}
    baseline = made(loud_base, tmp_path, mapping_learning_rate=[rate], **stage_1)
    found = baseline.fit()
    (trial,) = found.trials
    assert trial["mapping_used"] == (trial["mapping_loss"] < trial["text_loss"]) == (rate == 0.003)
    kept = baseline.valid if trial["mapping_used"] else baseline.words["valid"]
    assert mean_loss(baseline.model, kept) == pytest.approx(min(trial["mapping_loss"], trial["text_loss"]), rel=1e-5)
    prompt = baseline.layout.prompt(200)
    assert max(prompt) >= baseline.layout.size
    if not trial["mapping_used"]:  # then the answers are those of stage 1, which knows no vectors
        baseline.embedding.source = lambda numbers: pytest.fail("a vector was read")
        baseline.prepare_vectors = lambda: None
        assert max(baseline.visible(prompt)) < baseline.layout.size
    assert np.isfinite(found.log_p([200])).all() and (baseline.visible(prompt) == prompt) == trial["mapping_used"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_real_model_reads_vectors_nearly_as_it_reads_the_words_alone(real_base, tmp_path):
    baseline = made(real_base, tmp_path)
    baseline.build(settings_of(baseline))
    words = mean_loss(baseline.model, baseline.words["valid"])
    baseline.prepare_vectors()
    assert abs(mean_loss(baseline.model, baseline.valid) - words) < 0.5
    baseline.embedding.source = None  # an ordinary token in their places is what stage 1 must not be trained on
    assert mean_loss(baseline.model, baseline.valid) > words + 1


def test_vectors_are_of_the_people_and_behaviours_that_the_ids_name(loud_base, tmp_path):
    baseline = made(loud_base, tmp_path)
    baseline.build(settings_of(baseline))
    baseline.projector.used.fill_(1)
    before = len(baseline.features)
    ids = baseline.layout.prompt(200)
    baseline.prepare_vectors()
    features = baseline.features
    known = baseline.layout.items + len(baseline.layout.users)
    assert len(features) == known > before, "people in new prompts are known at once"
    (last,) = [token for token in ids if token >= baseline.embedding.first + baseline.layout.items][-1:]
    found = baseline.embedding.source(torch.tensor([3, last - baseline.embedding.first]))
    expected = torch.cat([baseline.sasrec.embedder.behaviors.weight[3:4],
                          user_vectors(baseline.sasrec, baseline.task.sequences, [(194, 200)])])
    torch.testing.assert_close(found, baseline.projector(expected))
    assert baseline.projector.project.net[0].out_features == 10 * baseline.projector.project.net[0].in_features


def test_predictions_and_weights(loud_base, tmp_path):
    baseline = made(loud_base, tmp_path, trials=2, mapping_learning_rate=[0.01, 1e-7], learning_rate=[1e-6])
    found = baseline.fit()
    assert len(baseline._first_stages) == 1 and len(found.trials) == 2, "stage 1 is trained once"
    wanted = choice.tested(baseline.task.events, baseline.task.windows, baseline.task.params.predictions, 0).head(6)
    frame, facts = predictions(found, found.baseline.task, wanted)
    assert frame.schema == tables.SCHEMAS["predictions"] and facts["layout"] == "stream"
    np.testing.assert_allclose(np.exp(np.array(frame["log_p"].to_list())).sum(axis=1), 1, atol=1e-5)
    write_weights(found, tmp_path / "collm")
    saved = load_file(tmp_path / "collm" / "projector.safetensors")
    assert float(saved["used"]) == found.trials[0]["mapping_used"]
    assert facts["trained_parameters"] == sum(p.numel() for p in lora_weights(baseline.model).values()) + sum(
        p.numel() for p in baseline.projector.parameters())
