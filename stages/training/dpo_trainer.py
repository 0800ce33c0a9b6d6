"""DPO on TRL's DPOTrainer, with chosen and rejected behind one reading of the prompt.

What is overridden of TRL's trainer stands in trainer.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from trl import DPOTrainer

from stages.common import launch
from stages.common.console import track
from stages.common.processes import put_together
from stages.model.likelihood import common_prefix, prefill
from stages.model.readers import make_reader
from stages.model.tree import AnswerTree, pack, step_log_probs
from stages.training.filling import filled, with_filler
from stages.training.objectives import OBJECTIVES, PairLogProbs
from stages.training.settings import Dpo
from stages.training.trainer import WarmupCosine

# Pairs in one forward pass by default: they share one reading of what their prompts begin with, in 8 GB of memory.
MICRO_BATCH = 8
_REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
_KNOWN = (*_REFERENCE, "counts")


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
        return {
            "prefix": torch.tensor(prompts[0][:shared], dtype=torch.long), "input_ids": packed.input_ids,
            "positions": packed.positions, "mask": packed.mask, "last": packed.last, "trees": trees,
        } | {name: torch.tensor([e[name] for e in examples]) for name in _KNOWN if name in examples[0]}


class PairTrainer(WarmupCosine, DPOTrainer):
    """DPOTrainer on token ids, with an objective of `OBJECTIVES` and a validation of ours.

    The reference is the adapter as it was given, so every margin is 0 at step 0. Its log-probabilities are computed
    once, before training, where the objective uses them.
    """

    loss_is_scaled_for_ga = True  # by compute_loss
    train_dataset: Dataset
    control: Any

    def __init__(self, *args, schedule: Dpo, validate: Callable[[Any], dict[str, float]], **kwargs):
        self.schedule, self.validate = schedule, validate
        self.objective = OBJECTIVES[schedule.objective]
        super().__init__(*args, **kwargs)
        policy = self.accelerator.unwrap_model(self.model)
        if "ref" in policy.peft_config:
            policy.delete_adapter("ref")  # TRL's copy of the adapter, which nobody should save
        if self.objective.uses_reference:
            self.train_dataset = self._with_reference(self.train_dataset)
        self.pairs = len(self.train_dataset)
        self.train_dataset = with_filler(self.train_dataset.add_column("counts", [True] * self.pairs),
                                         {"counts": False})

    def _with_reference(self, pairs: Dataset) -> Dataset:
        """`pairs`, and the log-probabilities of their answers under the adapter as it is now."""
        size, policy = self.args.per_device_train_batch_size, self.accelerator.unwrap_model(self.model)
        found = np.zeros((len(pairs), 2), dtype=np.float32)
        own = range(0, len(pairs), size)[launch.number() :: launch.count()]
        with track("reference log-probabilities", len(pairs)) as bar, torch.no_grad(), self.accelerator.autocast():
            for start in own:
                rows = range(start, min(start + size, len(pairs)))
                batch = self._prepare_inputs(self.data_collator([pairs[row] for row in rows]))
                found[rows] = pair_log_probs(policy, batch).cpu()
                bar.advance(len(rows))
            put_together(found)
            bar.advance(len(pairs) - bar.done)
        for name, column in zip(_REFERENCE, found.T, strict=True):
            pairs = pairs.add_column(name, column)
        return pairs

    def _get_train_sampler(self, train_dataset=None):
        if launch.count() == 1:
            return super()._get_train_sampler(train_dataset)
        # as Accelerate draws on one device, from the pairs without the filler
        drawn = SeedableRandomSampler(range(self.pairs), data_seed=self.args.data_seed)
        return filled(drawn, self.schedule.batch_size)

    def _prepare_dataset(self, dataset: Dataset, *args, **kwargs) -> Dataset:
        return dataset

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

    def _get_num_items_in_batch(self, batch_samples, device):
        """Pairs in an optimizer step, on all devices: the last one of an epoch may have fewer."""
        own = sum(int(batch["counts"].sum()) for batch in batch_samples)
        return int(self.accelerator.gather(torch.tensor([own], device=device)).sum())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over the batch's pairs, scaled so that those of an optimizer step add up to the mean over its pairs.

        On several devices, whose gradients are averaged, times their number.
        """
        log_p, counts = pair_log_probs(model, inputs), inputs["counts"]
        self._record(PairLogProbs(*log_p.unbind(dim=1), *(inputs.get(name) for name in _REFERENCE)), counts)
        if not counts.any():
            return 0.0 * log_p.sum()
        reference = (inputs[name][counts] if name in inputs else None for name in _REFERENCE)
        loss = self.objective.loss(PairLogProbs(*log_p[counts].unbind(dim=1), *reference), self.schedule)
        own = int(counts.sum()) * self.accelerator.num_processes
        return own / num_items_in_batch * loss if num_items_in_batch else loss

    def _record(self, pairs: PairLogProbs, counts: torch.Tensor) -> None:
        """Log means over the pairs that count in this forward pass, on all devices, beside the loss."""
        values = {"logps/chosen": pairs.chosen, "logps/rejected": pairs.rejected}
        if self.objective.uses_reference:
            margins = pairs.margins(self.schedule.beta)
            values |= {
                "rewards/margins": margins, "rewards/accuracies": (margins > 0).float(),
                # what the pair's answers win or lose of the whole probability: DPO tends to lower both
                "probability_change/chosen": pairs.chosen.exp() - pairs.ref_chosen.exp(),
                "probability_change/rejected": pairs.rejected.exp() - pairs.ref_rejected.exp(),
            }
        for name, value in values.items():
            known = self.accelerator.gather(value.detach().where(counts, torch.nan))
            if len(known := known[~known.isnan()]):
                self._metrics["train" if self.model.training else "eval"][name].append(known.mean().item())


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
