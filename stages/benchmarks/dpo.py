"""Pairs a second in DPO: ours against TRL's DPOTrainer on the same pairs, as token ids, in the same layout.

Theirs runs with its defaults (batch 8, activation checkpointing, the reference in every step), with
`precompute_ref_log_probs`, and with what is fastest beside that: no checkpointing, and on a CPU one pair a forward pass
(no target, but the fairest rival). Where a reference is computed beforehand, ours and theirs, that time counts as part
of the `dpo.epochs` passes it serves: a rate is pairs x epochs over (making the trainer + all passes). The time to load
the model is in neither. Every round has its pairs in another order, or TRL would find the last round's reference on
disk.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from stages.benchmarks.data import Material
from stages.benchmarks.sizes import Sizes
from stages.benchmarks.timing import Comparison, Row, alternate, now
from stages.benchmarks.training import NO_LOOKS, Clock, their_arguments, trained
from stages.common.console import console
from stages.model.load import load_adapter, new_adapter, save_adapter
from stages.model.resolve import read_manifest
from stages.training.dpo_trainer import MICRO_BATCH, PairCollator, PairTrainer
from stages.training.trainer import arguments

_BEST_BATCH = {} if torch.cuda.is_available() else {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
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


def compare(material: Material, sizes: Sizes, folder: Path, ours_only: bool = False) -> Comparison:
    """Pairs a second of both sides."""
    adapter = folder / "adapter"
    if not adapter.exists():
        adapter.mkdir()
        fresh = new_adapter(material.model, material.params.lora, material.params.seed)
        save_adapter(fresh, read_manifest(material.model), adapter)
    several, few = (pairs(material, count) for count in (sizes.pairs, sizes.their_pairs))
    variants = {} if ours_only else _VARIANTS
    failed: dict[str, str] = {}
    console.print("DPO: warming up")
    first = few.select(range(min(2, len(few))))
    our_rate(material, turned(first, 1), adapter, folder)
    sides = {"ours": lambda number: our_rate(material, turned(several, number + 2), adapter, folder)}
    for name, (_, changes) in variants.items():
        try:
            their_rate(material, turned(first, 1), changes, adapter, folder)
        except Exception as error:  # a rival's failure is a result
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        sides[name] = lambda number, c=changes: their_rate(material, turned(few, number + 2), c, adapter, folder)
    results = alternate(sides, sizes.rounds)
    rows = [
        Row("DPO", f"TRL DPOTrainer, {name}", "pairs/s", results["ours"], results.get(name, []), target=target,
            note=failed.get(name, ""))
        for name, (target, _) in variants.items()
    ] or [Row("DPO", "", "pairs/s", results["ours"])]
    return Comparison(rows, {"our_pairs": len(several), "their_pairs": len(few), "failed": failed,
                             "tokens_a_prompt": float(np.mean([len(p) for p in several["prompt_ids"]]))})


def pairs(material: Material, count: int) -> Dataset:
    """Training windows with the truth chosen and another behaviour rejected; both seeded."""
    rng = np.random.default_rng([material.params.seed, 14])
    rows = rng.permutation(material.rows("train"))
    # a behaviour that only other users have is no candidate
    known = material.log.behavior[rows] < material.log.vocabulary_size
    rows, answers = rows[known][:count], material.stream.answers
    chosen = material.log.behavior[rows]
    rejected = (chosen + rng.integers(1, len(answers), size=len(rows))) % len(answers)
    return Dataset.from_dict({
        "prompt_ids": [material.stream.prompt(int(row)) for row in rows],
        "chosen_ids": [answers[number] for number in chosen], "rejected_ids": [answers[number] for number in rejected],
    })


def turned(samples: Dataset, by: int) -> Dataset:
    """The same pairs in another order."""
    return Dataset.from_dict(samples.select(np.roll(np.arange(len(samples)), by)).to_dict())


def our_rate(material: Material, samples: Dataset, adapter: Path, folder: Path) -> float:
    """Pairs a second, the reference included."""
    params, policy = material.params, load_adapter(adapter)
    schedule = params.dpo.model_copy(update={"objective": "dpo"})
    settings = arguments(schedule, len(samples), folder / "ours", params.seed, MICRO_BATCH) | NO_LOOKS
    config = DPOConfig(**settings)
    clock, start = Clock(), now()
    trainer = PairTrainer(
        model=policy, args=config, train_dataset=samples, eval_dataset=samples.select([0]),
        processing_class=material.tokenizer, data_collator=PairCollator(policy.dtype, share_prefix=True),
        callbacks=[clock], schedule=schedule, validate=lambda model: {},
    )
    made = now() - start
    trained(trainer)
    return len(samples) * schedule.epochs / (made + clock.seconds)


def their_rate(material: Material, samples: Dataset, changes: dict[str, Any], adapter: Path, folder: Path) -> float:
    """Pairs a second, the reference included."""
    params, policy = material.params, load_adapter(adapter)
    settings = their_arguments(
        str(folder / "theirs"), params.seed, params.dpo.learning_rate, params.dpo.batch_size, params.dpo.batch_size
    )
    config = DPOConfig(**settings | {"num_train_epochs": params.dpo.epochs, "beta": params.dpo.beta} | changes)
    clock, start = Clock(), now()
    trainer = TokenPairs(model=policy, args=config, train_dataset=samples, processing_class=material.tokenizer,
                         callbacks=[clock])
    made = now() - start
    trained(trainer)
    return len(samples) * params.dpo.epochs / (made + clock.seconds)
