"""Pairs a second in DPO: ours against TRL's DPOTrainer on the same pairs, as token ids, in the same layout.

The baseline runs with its defaults (batch 8, activation checkpointing, the reference in every step), with
`precompute_ref_log_probs`, and with what is fastest beside that: no checkpointing, and on a CPU one pair a forward pass
(no target, but the fairest comparison). Where a reference is computed beforehand, that time counts on both sides as
part of the `dpo.epochs` passes it serves: a rate is pairs x epochs over (making the trainer + all passes). The time to
load the model is in neither. Every round has its pairs in another order, or TRL would find the last round's reference
on disk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from stages.benchmarks.data import Inputs
from stages.benchmarks.timing import Comparison, Row, alternate, now
from stages.benchmarks.training import NO_VALIDATION, baseline_arguments, train
from stages.common.console import console
from stages.common.draws import stream
from stages.model.load import load_adapter, new_adapter, save_adapter
from stages.model.resolve import read_manifest
from stages.training.dpo_trainer import MICRO_BATCH, PairCollator, PairTrainer
from stages.training.trainer import arguments

_BEST_BATCH = {} if torch.cuda.is_available() else {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
# settings of the baseline: the target, and what differs from its defaults
_VARIANTS: dict[str, tuple[float | None, dict[str, Any]]] = {
    "its defaults": (4, {}),
    "precompute_ref_log_probs": (3, {"precompute_ref_log_probs": True}),
    "precompute, no checkpointing, best batch": (
        None, {"precompute_ref_log_probs": True, "activation_checkpointing": False} | _BEST_BATCH,
    ),
}


class TokenPairs(DPOTrainer):
    """TRL's trainer on token ids: it would only tokenise text, and add its end-of-text token to our terminator."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset


def compare(inputs: Inputs, ours_only: bool = False) -> Comparison:
    """Pairs a second of both sides."""
    several, few = (pairs(inputs, count) for count in (inputs.sizes.pairs, inputs.sizes.baseline_pairs))
    variants = {} if ours_only else _VARIANTS
    failed: dict[str, str] = {}
    console.print("DPO: warming up")
    first = few.select(range(min(2, len(few))))
    our_rate(inputs, turned(first, 1))
    sides: dict[str, Callable[[int], float]] = {"ours": lambda number: our_rate(inputs, turned(several, number + 2))}
    for name, (_, changes) in variants.items():
        try:
            baseline_rate(inputs, turned(first, 1), changes)
            sides[name] = partial(
                lambda changes, number: baseline_rate(inputs, turned(few, number + 2), changes), changes)
        except Exception as error:  # a baseline's failure is a result
            failed[name] = f"{type(error).__name__}: {error}"
    results = alternate(sides, inputs.sizes.rounds)
    rows = [
        Row("DPO", f"TRL DPOTrainer, {name}", "pairs/s", results["ours"], results.get(name, []), target=target,
            note=failed.get(name, ""))
        for name, (target, _) in variants.items()
    ] or [Row("DPO", "", "pairs/s", results["ours"])]
    return Comparison(rows, {"our_pairs": len(several), "baseline_pairs": len(few), "failed": failed,
                             "tokens_a_prompt": float(np.mean([len(p) for p in several["prompt_ids"]]))})


def pairs(inputs: Inputs, count: int) -> Dataset:
    """Training windows with the truth chosen and another behaviour rejected; both seeded."""
    rng = stream(inputs.params.seed, "benchmark dpo pairs")
    rows = rng.permutation(inputs.rows("train"))
    # a behaviour that only other users have is no candidate
    known = inputs.log.behavior[rows] < inputs.log.vocabulary_size
    rows, answers = rows[known][:count], inputs.stream.answers
    chosen = inputs.log.behavior[rows]
    rejected = (chosen + rng.integers(1, len(answers), size=len(rows))) % len(answers)
    return Dataset.from_dict({
        "prompt_ids": [inputs.stream.prompt(int(row)) for row in rows],
        "chosen_ids": [answers[number] for number in chosen], "rejected_ids": [answers[number] for number in rejected],
    })


def turned(samples: Dataset, by: int) -> Dataset:
    """The same pairs in another order."""
    return Dataset.from_dict(samples.select(np.roll(np.arange(len(samples)), by)).to_dict())


def our_rate(inputs: Inputs, samples: Dataset) -> float:
    """Pairs a second, the reference included."""
    params, policy = inputs.params, new_policy(inputs)
    schedule = params.dpo.model_copy(update={"objective": "dpo"})
    settings = arguments(schedule, len(samples), inputs.folder / "ours", params.seed, MICRO_BATCH) | NO_VALIDATION
    return _rate(lambda: PairTrainer(
        model=policy, train_dataset=samples, eval_dataset=samples.select([0]), processing_class=inputs.tokenizer,
        args=DPOConfig(**settings), data_collator=PairCollator(policy.dtype, share_prefix=True), schedule=schedule,
        validate=lambda model: {},
    ), len(samples) * schedule.epochs)


def baseline_rate(inputs: Inputs, samples: Dataset, changes: dict[str, Any]) -> float:
    """Pairs a second, the reference included; `changes` are of TRL's defaults."""
    dpo, policy = inputs.params.dpo, new_policy(inputs)
    settings = baseline_arguments(
        str(inputs.folder / "baseline"), inputs.params.seed, dpo.learning_rate, dpo.batch_size, dpo.batch_size
    )
    config = DPOConfig(**settings | {"num_train_epochs": dpo.epochs, "beta": dpo.beta} | changes)
    return _rate(lambda: TokenPairs(model=policy, args=config, train_dataset=samples,
                                    processing_class=inputs.tokenizer), len(samples) * dpo.epochs)


def new_policy(inputs: Inputs) -> PeftModel:
    """An untrained adapter, which both sides start from, beside its reference."""
    adapter = inputs.folder / "adapter"
    if not adapter.exists():
        fresh = new_adapter(inputs.model, inputs.params.lora, inputs.params.seed)
        save_adapter(fresh, read_manifest(inputs.model), adapter)
    return load_adapter(adapter)


def _rate(make: Callable[[], DPOTrainer], pairs: float) -> float:
    """Pairs a second of making a trainer and training."""
    start = now()
    trainer = make()
    made = now() - start
    return pairs / (made + train(trainer).seconds)
