"""B-Tuning: TRL's DPOTrainer, with chosen and rejected behind one reading of the prompt."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from trl import DPOTrainer

from stages.common.console import track
from stages.training.settings import Dpo
from stages.model.likelihood import common_prefix, prefill
from stages.model.readers import make_reader
from stages.model.tree import AnswerTree, pack, step_log_probs
from stages.training.loop import WarmupCosine

# Pairs in one forward pass by default: they share one reading of what their prompts begin with, in 8 GB of memory.
MICRO_BATCH = 8


class PairCollator:
    """Packs pairs: each sequence is a prompt with a tree of two answers, chosen first.

    What the prompts of a batch begin with stands apart, as `prefix`, and is read once (`share_prefix`).
    """

    def __init__(self, dtype: torch.dtype, share_prefix: bool):
        self.dtype, self.share_prefix = dtype, share_prefix

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        trees = [AnswerTree.build([e["chosen_ids"], e["rejected_ids"]]) for e in examples]
        prompts = [e["prompt_ids"] for e in examples]
        shared = common_prefix(prompts) if self.share_prefix else 0
        packed = pack([prompt[shared:] for prompt in prompts], trees, shared, self.dtype)
        batch = {
            "prefix": torch.tensor(prompts[0][:shared], dtype=torch.long), "input_ids": packed.input_ids,
            "positions": packed.positions, "mask": packed.mask, "last": packed.last, "trees": trees,
        }
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in examples[0]:
                batch[name] = torch.tensor([e[name] for e in examples])
        return batch


class PairTrainer(WarmupCosine, DPOTrainer):
    """DPOTrainer on token ids, with the paper's schedule and a validation of ours.

    The reference is the adapter as it was given (TRL copies it), so every margin is 0 at step 0. Its log-probabilities
    are computed once, before training. With `objective` `sft` the loss is the chosen answers' negative log-likelihood.
    """

    loss_is_scaled_for_ga = True  # by compute_loss

    def __init__(self, *args, schedule: Dpo, validate: Callable[[Any], dict[str, float]], **kwargs):
        self.schedule, self.validate, self._bar = schedule, validate, None
        super().__init__(*args, **kwargs)
        policy = self.accelerator.unwrap_model(self.model)
        if "ref" in policy.peft_config:
            policy.delete_adapter("ref")  # its log-probabilities are known by now; nobody should save it

    def _prepare_dataset(self, dataset: Dataset, *args, **kwargs) -> Dataset:
        return dataset  # token ids already

    def evaluate(self, *args, metric_key_prefix: str = "eval", **kwargs) -> dict[str, float]:
        """Metrics of `validate`, logged and handed to the callbacks as Trainer's own evaluation would."""
        model = self.accelerator.unwrap_model(self.model)
        training = model.training
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            metrics = {f"{metric_key_prefix}_{key}": value for key, value in self.validate(model).items()}
        model.train(training)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if name != "train":
            return dataset  # `validate` looks at windows, not at pairs
        with track("reference log-probabilities", len(dataset)) as self._bar:
            return super()._precompute_ref_logps(dataset, name, batch_size)

    def compute_ref_log_probs(self, model, inputs):
        """Reference log-probabilities (B,) of chosen and rejected."""
        policy = self.accelerator.unwrap_model(self.model)
        with torch.no_grad(), self.accelerator.autocast():
            policy.set_adapter("ref")
            logps = pair_log_probs(policy, inputs)
            policy.set_adapter("default")
        self._bar.advance(len(logps))
        return logps.unbind(dim=1)

    def _get_num_items_in_batch(self, batch_samples, device):
        """Pairs in this device's share of an optimizer step: the last forward pass of an epoch may have fewer."""
        return sum(len(batch["last"]) for batch in batch_samples)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the batch's pairs, scaled so that those of an optimizer step add up to the mean over its pairs."""
        share = len(inputs["last"]) / num_items_in_batch if num_items_in_batch else 1.0
        return share * super().compute_loss(model, inputs, return_outputs)

    def _compute_loss(self, model, inputs, return_outputs):
        logps = pair_log_probs(model, inputs)
        chosen, rejected = logps.unbind(dim=1)
        mode = "train" if self.model.training else "eval"
        if self.schedule.objective == "sft":
            self._record(mode, {"logps/chosen": chosen, "logps/rejected": rejected})
            return -chosen.mean()
        chosen_ratio, rejected_ratio = chosen - inputs["ref_chosen_logps"], rejected - inputs["ref_rejected_logps"]
        margins = self.beta * (chosen_ratio - rejected_ratio)
        loss = -torch.nn.functional.logsigmoid(margins).mean()
        if self.schedule.nll_weight:
            loss = loss - self.schedule.nll_weight * chosen.mean()
        self._record(mode, {
            "logps/chosen": chosen, "logps/rejected": rejected, "rewards/margins": margins,
            "rewards/accuracies": (margins > 0).float(),
            # what the pair's answers win or lose of the whole probability: DPO tends to lower both
            "probability_change/chosen": chosen.exp() - inputs["ref_chosen_logps"].exp(),
            "probability_change/rejected": rejected.exp() - inputs["ref_rejected_logps"].exp(),
        })
        return loss

    def _record(self, mode: str, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self._metrics[mode][name].append(self.accelerator.gather(value.detach()).mean().item())

    def create_model_card(self, *args, **kwargs) -> None:
        """None: a checkpoint is no model to publish."""


def pair_log_probs(model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities (B, 2) of the chosen and the rejected answer of each packed pair, in float32."""
    reader = make_reader(model)
    past = prefill(reader, inputs["prefix"])
    hidden, _ = reader.read(inputs["input_ids"], inputs["positions"], past, inputs["mask"])
    head = getattr(model, "module", model).get_output_embeddings()
    hidden = hidden.to(head.weight.dtype)
    return torch.stack([
        step_log_probs(hidden[i, last : last + 1 + len(tree.tokens)], tree, head)
        for i, (last, tree) in enumerate(zip(inputs["last"].tolist(), inputs["trees"], strict=True))
    ])
