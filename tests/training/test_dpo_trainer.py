import math

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from stages.model.likelihood import score
from stages.model.load import load_adapter, load_tokenizer
from stages.training.dpo_trainer import PairCollator, PairTrainer, pair_log_probs
from stages.training.objectives import OBJECTIVES, Objective
from stages.training.trainer import arguments
from tests.small_log import small_params

END = 2
PREFIX = [5, 9, 14, 3, 7]
PAIRS = [
    {"prompt_ids": PREFIX + [40, 41, 42], "chosen_ids": [50, 51, END], "rejected_ids": [50, END]},
    {"prompt_ids": PREFIX + [43], "chosen_ids": [60, END], "rejected_ids": [61, 62, 63, END]},
    {"prompt_ids": PREFIX + [44, 45, 46, 47, 48], "chosen_ids": [70, END], "rejected_ids": [70, 71, END]},
    {"prompt_ids": PREFIX + [49, 50], "chosen_ids": [END], "rejected_ids": [80, END]},
]


class Plain(DPOTrainer):
    """TRL's trainer, given token ids."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


def trainer_of(tuned, folder, share_prefix=True, **dpo):
    params = small_params(**{f"dpo__{key}": value for key, value in ({"nll_weight": 0} | dpo).items()}).dpo
    data = Dataset.from_list(PAIRS)
    config = DPOConfig(**arguments(params, len(PAIRS), folder, 0, 4))
    return PairTrainer(
        model=load_adapter(tuned), args=config, train_dataset=data, eval_dataset=data,
        processing_class=load_tokenizer(tuned), data_collator=PairCollator(torch.float32, share_prefix),
        schedule=params, validate=lambda model: {"overall": 0.0},
    )


def batch_of(trainer, first=0, last=None):
    return trainer.data_collator([dict(row) for row in trainer.train_dataset][first:last])


def move(model):
    """Change the policy, as training would, the same way each time."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.named_parameters():
        if weight.requires_grad and ".default." in name:
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)


@torch.no_grad()
def naive(model, example, key):
    ids = torch.tensor([example["prompt_ids"] + example[key]])
    log_p = model(ids).logits[0].log_softmax(dim=-1)
    size = len(example[key])
    return log_p[torch.arange(ids.shape[1] - size - 1, ids.shape[1] - 1), torch.tensor(example[key])].sum()


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.usefixtures("reader")
def test_log_probabilities_are_those_of_one_answer_at_a_time(tuned, share_prefix):
    model = load_adapter(tuned)
    batch = PairCollator(torch.float32, share_prefix)(PAIRS)
    assert len(batch["prefix"]) == (len(PREFIX) if share_prefix else 0)
    expected = [[naive(model, pair, "chosen_ids"), naive(model, pair, "rejected_ids")] for pair in PAIRS]
    torch.testing.assert_close(pair_log_probs(model, batch), torch.tensor(expected), atol=1e-4, rtol=0)
    assert torch.tensor(expected).std() > 1


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_before_the_first_step_every_margin_is_0_and_the_loss_ln_2(tuned, tmp_path, reader, beta):
    trainer = trainer_of(tuned, tmp_path, beta=beta)
    loss = trainer.compute_loss(trainer.model, batch_of(trainer))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
    assert trainer._metrics["train"]["rewards/margins"] == pytest.approx([0.0], abs=1e-5)
    assert trainer._metrics["train"]["probability_change/chosen"] == pytest.approx([0.0], abs=1e-6)


def test_the_reference_is_the_adapter_as_it_was_given_and_not_the_base_model(tuned, tmp_path):
    trainer, untouched = trainer_of(tuned, tmp_path, beta=2.0), load_adapter(tuned)
    reference = torch.tensor([[row["ref_chosen_logps"], row["ref_rejected_logps"]] for row in trainer.train_dataset])
    expected = torch.tensor([[naive(untouched, p, "chosen_ids"), naive(untouched, p, "rejected_ids")] for p in PAIRS])
    torch.testing.assert_close(reference, expected, atol=1e-4, rtol=0)
    batch = batch_of(trainer)
    with torch.no_grad(), trainer.model.disable_adapter():
        base = pair_log_probs(trainer.model, batch)
    batch["ref_chosen_logps"], batch["ref_rejected_logps"] = base.unbind(dim=1)
    assert abs(trainer.compute_loss(trainer.model, batch).item() - math.log(2)) > 0.01, "the classic mistake would show"


def test_the_reference_stays_while_the_policy_moves(tuned, tmp_path):
    trainer = trainer_of(tuned, tmp_path, beta=2.0)
    assert list(trainer.model.peft_config) == ["default"] == list(trainer.model.active_adapters)
    assert not any(".ref." in name for name, _ in trainer.model.named_parameters())
    before = [row["ref_chosen_logps"] for row in trainer.train_dataset]
    move(trainer.model)
    assert [row["ref_chosen_logps"] for row in trainer.train_dataset] == before
    assert abs(trainer.compute_loss(trainer.model, batch_of(trainer)).item() - math.log(2)) > 0.01


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.usefixtures("reader")
def test_the_loss_and_its_gradients_are_those_of_trl(tuned, tmp_path, share_prefix):
    mine = trainer_of(tuned, tmp_path / "mine", share_prefix, beta=0.3)
    params = small_params().dpo
    data = Dataset.from_list(PAIRS)
    config = DPOConfig(**arguments(params, len(PAIRS), tmp_path / "theirs", 0, 4), beta=0.3)
    theirs = Plain(
        model=load_adapter(tuned), args=config, train_dataset=data, eval_dataset=data,
        processing_class=load_tokenizer(tuned),
    )
    found = []
    for trainer in (mine, theirs):
        move(trainer.model)
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch_of(trainer))
        loss.backward()
        gradients = {n: w.grad for n, w in trainer.model.named_parameters() if w.requires_grad and ".default." in n}
        found.append((loss.item(), gradients))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert abs(found[0][0] - math.log(2)) > 0.01
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], atol=1e-5, rtol=0)
    assert max(float(gradient.abs().max()) for gradient in found[0][1].values()) > 1e-2


def test_the_weight_of_the_likelihood_adds_just_that_much_of_it(tuned, tmp_path):
    losses = {}
    for weight in (0, 0.5, 3):
        trainer = trainer_of(tuned, tmp_path, nll_weight=weight)
        move(trainer.model)
        losses[weight] = trainer.compute_loss(trainer.model, batch_of(trainer)).item()
    nll = -torch.stack([naive(trainer.model, pair, "chosen_ids") for pair in PAIRS]).mean().item()
    assert losses[0.5] - losses[0] == pytest.approx(0.5 * nll, abs=1e-4)
    assert losses[3] - losses[0] == pytest.approx(3 * nll, abs=1e-3)


def test_objective_sft_is_the_likelihood_of_the_chosen_answers_alone(tuned, tmp_path):
    trainer = trainer_of(tuned, tmp_path, objective="sft", nll_weight=7)
    assert "ref_chosen_logps" not in trainer.train_dataset.column_names
    move(trainer.model)
    nll = -torch.stack([naive(trainer.model, pair, "chosen_ids") for pair in PAIRS]).mean().item()
    assert trainer.compute_loss(trainer.model, batch_of(trainer)).item() == pytest.approx(nll, abs=1e-4)
    assert list(trainer.model.peft_config) == ["default"]


def test_an_objective_of_the_table_is_what_is_trained(tuned, tmp_path, monkeypatch):
    hinge = Objective(lambda pairs, params: torch.relu(1 - pairs.margins(params.beta)).mean(), uses_reference=True)
    monkeypatch.setitem(OBJECTIVES, "hinge", hinge)
    trainer = trainer_of(tuned, tmp_path, objective="hinge")
    loss = trainer.compute_loss(trainer.model, batch_of(trainer))
    assert loss.item() == pytest.approx(1, abs=1e-5) and loss.requires_grad


def test_the_losses_of_uneven_batches_add_up_to_the_mean_over_pairs(tuned, tmp_path):
    trainer = trainer_of(tuned, tmp_path)
    move(trainer.model)
    whole = trainer.compute_loss(trainer.model, batch_of(trainer)).item()
    parts = [batch_of(trainer, 0, 3), batch_of(trainer, 3, 4)]
    items = trainer._get_num_items_in_batch(parts, torch.device("cpu"))
    assert sum(
        trainer.compute_loss(trainer.model, part, num_items_in_batch=items).item() for part in parts
    ) == pytest.approx(whole, abs=1e-5)


def test_the_history_tells_what_chosen_and_rejected_answers_lose(tuned, tmp_path):
    trainer = trainer_of(tuned, tmp_path)
    start = load_adapter(tuned)
    move(trainer.model)
    trainer.compute_loss(trainer.model, batch_of(trainer))
    for name in ("chosen", "rejected"):
        change = torch.stack([
            naive(trainer.model, pair, f"{name}_ids").exp() - naive(start, pair, f"{name}_ids").exp() for pair in PAIRS
        ])
        recorded = trainer._metrics["train"][f"probability_change/{name}"]
        assert recorded == pytest.approx([change.mean().item()], abs=1e-6)
    assert 0 <= trainer._metrics["train"]["rewards/accuracies"][0] <= 1


def test_a_validation_leaves_the_model_as_it_was(tuned, tmp_path):
    trainer = trainer_of(tuned, tmp_path)
    seen = []
    trainer.validate = lambda model: seen.append((model.training, torch.is_grad_enabled())) or {"overall": 0.25}
    trainer.model.train()
    assert trainer.evaluate()["eval_overall"] == 0.25
    assert seen == [(False, False)] and trainer.model.training
    assert trainer.state.log_history[-1]["eval_overall"] == 0.25


def test_training_goes_on_from_a_validation_as_if_there_had_been_none(tuned, tmp_path, reader):
    found = []
    for validated in (True, False):
        trainer = trainer_of(tuned, tmp_path / str(validated))
        prompts, answers = [pair["prompt_ids"] for pair in PAIRS], [pair["chosen_ids"] for pair in PAIRS]
        trainer.validate = lambda model: {"overall": float(score(model, prompts, answers).log_p.mean())}  # noqa: B023
        move(trainer.model)
        if validated:
            trainer.evaluate()
        trainer.model.train()
        trainer.compute_loss(trainer.model, batch_of(trainer)).backward()
        found.append({name: weight.grad for name, weight in trainer.model.named_parameters() if weight.requires_grad})
    assert found[0].keys() == found[1].keys() and found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-6, rtol=0)


def test_what_all_prompts_begin_with_is_read_once(tuned, reads):
    model = load_adapter(tuned)
    pair_log_probs(model, PairCollator(torch.float32, share_prefix=True)(PAIRS))
    assert reads == [(1, len(PREFIX)), (len(PAIRS), 5 + 2)]
    reads.clear()
    pair_log_probs(model, PairCollator(torch.float32, share_prefix=False)(PAIRS))
    assert reads == [(len(PAIRS), len(PREFIX) + 5 + 2)]
