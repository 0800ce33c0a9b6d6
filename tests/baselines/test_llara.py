import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.baselines.language.baseline import predictions, write_weights
from stages.baselines.language.training import mean_loss, without_dropout
from stages.baselines.systems.llara import LLaRA
from stages.common import tables
from stages.model.likelihood import score
from stages.model.load import load_adapter
from stages.windows import tested as choice
from tests.baselines.language import ADAPTED, a_sasrec, small_task


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


def made(loud_base, folder, trials=1, **changes):
    task = small_task(folder, "llara", ADAPTED | changes, trials)
    return LLaRA(task, loud_base, a_sasrec(task, folder / "sasrec"))


@pytest.fixture(scope="module")
def fitted(loud_base, tmp_path_factory):
    """Fitted with two settings, of which one moves nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHAVIORLM_DTYPE", "float32")
        baseline = made(loud_base, tmp_path_factory.mktemp("llara"), trials=2, learning_rate=[0.03, 1e-9], epochs=[8])
        before = {name: weight.clone() for name, weight in baseline.base.named_parameters()}
        yield baseline.fit(), before


def test_only_adapter_and_projector_change_and_the_best_setting_is_kept(fitted):
    found, before = fitted
    after = {name.replace("base_model.model.", "").replace("base_layer.", ""): weight
             for name, weight in found.baseline.model.named_parameters() if "lora_" not in name}
    assert after.keys() == before.keys()
    for name, weight in after.items():
        assert torch.equal(weight, before[name]), name
    assert all(weight.abs().max() > 0 for name, weight in found.baseline.weights().items() if "lora_B" in name)
    assert len(found.trials) == 2 and found.settings["learning_rate"] == 0.03
    assert found.score == max(trial["score"] for trial in found.trials) > 0.8, "what follows is the next in turn"
    assert mean_loss(found.baseline.model, found.baseline.valid) == pytest.approx(found.trials[0]["loss"], rel=1e-5)


def test_the_curriculum_is_the_share_of_steps_taken_and_draws_by_it(loud_base, tmp_path):
    baseline = made(loud_base, tmp_path, learning_rate=[1e-6], epochs=[12], validations=1)
    baseline.build(baseline.values.model_dump() | {"learning_rate": 1e-6, "epochs": 12, "dropout": 0.0})
    facts = baseline.learn({**baseline.values.model_dump(), "learning_rate": 1e-6, "epochs": 12, "dropout": 0.0})
    steps = 12 * -(-len(baseline.train) // 2)
    assert [probability for probability, _ in baseline.curriculum] == [step / steps for step in range(steps)]
    hybrid = np.array([hybrid for _, hybrid in baseline.curriculum])
    assert facts["hybrid_steps"] == hybrid.sum() and facts["steps"] == steps
    early, late = hybrid[: steps // 3].mean(), hybrid[-(steps // 3) :].mean()
    assert early < 0.35 and late > 0.65 and not hybrid[0]


def test_in_a_text_only_step_the_projector_stands_still(loud_base, tmp_path, monkeypatch):
    baseline = made(loud_base, tmp_path)
    settings = baseline.values.model_dump() | {"learning_rate": 0.01, "epochs": 1, "dropout": 0.0}
    baseline.build(settings)
    start, seen = copy.deepcopy(baseline.projector.state_dict()), []
    kept = baseline.prepare_vectors

    def prepare_vectors():  # a validation after each step
        seen.append(all(torch.equal(value, start[name]) for name, value in baseline.projector.state_dict().items()))
        kept()

    monkeypatch.setattr(baseline, "prepare_vectors", prepare_vectors)
    baseline.learn(settings | {"validations": 1000})
    first = [hybrid for _, hybrid in baseline.curriculum].index(True)
    assert seen == [step <= first for step in range(len(seen))] and len(seen) == len(baseline.curriculum) + 1


def test_a_projector_that_gives_the_placeholders_vector_is_the_prompt_without_soft_tokens(fitted):
    found, _ = fitted
    baseline, prompts = found.baseline, [found.baseline.layout.prompt(r) for r in (210, 220)]
    own = baseline.embedding.weight[baseline.embedding.placeholder].detach()
    baseline.prepare_vectors()
    hybrid = score(baseline.model, prompts, baseline.layout.answers).log_p
    baseline.embedding.source = lambda numbers: own.expand(len(numbers), -1)
    same = score(baseline.model, prompts, baseline.layout.answers).log_p
    baseline.embedding.source = None
    text = score(baseline.model, prompts, baseline.layout.answers).log_p
    np.testing.assert_allclose(same, text, atol=1e-6)
    assert abs(hybrid - text).max() > 0.01
    soft, other = baseline.embedding.first, baseline.embedding.placeholder
    ordinary = [[other if token >= soft else token for token in prompt] for prompt in prompts]
    np.testing.assert_allclose(score(baseline.model, ordinary, baseline.layout.answers).log_p, text, atol=1e-6)


def test_exchanged_soft_vectors_change_the_answers(fitted):
    found, _ = fitted
    baseline, prompts = found.baseline, [found.baseline.layout.prompt(r) for r in (210, 220)]
    baseline.prepare_vectors()
    own = score(baseline.model, prompts, baseline.layout.answers).log_p
    vectors = baseline.projector(baseline.items).detach()
    baseline.embedding.source = lambda numbers: vectors.roll(1, 0)[numbers]
    assert abs(score(baseline.model, prompts, baseline.layout.answers).log_p - own).max() > 0.01
    baseline.prepare_vectors()


def test_predictions_are_distributions_and_their_facts_are_those_of_all_baselines(fitted):
    found, _ = fitted
    task = found.baseline.task
    wanted = choice.tested(task.events, task.windows, task.params.predictions, 0).head(12)
    frame, facts = predictions(found, task, wanted)
    assert frame.schema == tables.SCHEMAS["predictions"]
    log_p = np.array(frame["log_p"].to_list())
    np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, atol=1e-5)
    assert facts.keys() == {"layout", "context", "windows", "events_dropped", "trained_targets", "trained_parameters",
                            "latency_ms", "settings", "tuning"}
    most = found.baseline.params.instructions.train_targets
    sequences = found.baseline._sequences("train", most)
    assert facts["trained_targets"] == sum(len(each.spans) for each in sequences) <= most
    assert facts["layout"] == "stream" and facts["windows"] == 12
    hidden = found.baseline.base.config.hidden_size
    own = sum(p.numel() for n, p in found.baseline.model.named_parameters() if "lora_" in n)
    assert facts["trained_parameters"] == own + 8 * hidden + hidden + hidden * hidden + hidden


def test_weights_are_written_as_peft_reads_them(fitted, tmp_path):
    found, _ = fitted
    write_weights(found, tmp_path / "llara")
    baseline = found.baseline
    prompts = [baseline.layout.prompt(210)]
    baseline.embedding.source = None
    soft, other = baseline.embedding.first, baseline.embedding.placeholder
    ordinary = [[other if token >= soft else token for token in prompt] for prompt in prompts]
    again = load_adapter(tmp_path / "llara", torch.float32)
    np.testing.assert_allclose(score(again, ordinary, baseline.layout.answers).log_p,
                               score(baseline.model, prompts, baseline.layout.answers).log_p, atol=1e-5)
    saved = load_file(tmp_path / "llara" / "projector.safetensors")
    for name, value in baseline.projector.state_dict().items():
        assert torch.equal(saved[name], value)
    assert {path.suffix for path in (tmp_path / "llara").iterdir()} == {"", ".json", ".safetensors"}


def test_with_dropout_training_is_noisy_and_predictions_are_not(loud_base, tmp_path):
    baseline = made(loud_base, tmp_path, dropout=[0.5])
    baseline.build(baseline.values.model_dump() | {"dropout": 0.5})
    for name, weight in baseline.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    baseline.prepare_vectors()
    assert mean_loss(baseline.model, baseline.valid) == mean_loss(baseline.model, baseline.valid)
    example = torch.tensor([baseline.train[0]["input_ids"]])
    with torch.no_grad():
        baseline.model.train()
        assert not torch.allclose(baseline.model(example).logits, baseline.model(example).logits)
        with without_dropout(baseline.model):
            assert torch.allclose(baseline.model(example).logits, baseline.model(example).logits)
        assert not torch.allclose(baseline.model(example).logits, baseline.model(example).logits)
