"""Stage `sft`: A-Tuning (paper 3.2), or its controls by `sft.labels`: a LoRA adapter from labelled sequences.

`sft.logit_adjustment` changes the loss (stages/training/adjustment.py); `sft.labels: none` trains nothing. Runs on several
devices by `accelerate launch -m stages.sft ...`; an interrupted run goes on where it was.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from datasets import concatenate_datasets
from peft import PeftModel
from trl import SFTConfig

from stages.common.draws import stream
from stages.common.errors import UserError
from stages.common.params import Section, Seed
from stages.common.stage import COUNTS, Stage, place, table, table_folder
from stages.model.load import adapter_folder, load_tokenizer, new_adapter
from stages.model.resolve import read_manifest
from stages.model.settings import Lora
from stages.training.adjustment import LogitAdjustment
from stages.training.loop import HISTORY, arguments, fit, micro_batch_option, summary
from stages.training.settings import Sft
from stages.training.sft_trainer import MICRO_BATCH, SequenceTrainer, labelled

# What a run that trains logs beside step and epoch: DVC plots want the columns where nothing was trained, too
LOGGED = ("eval_loss", "grad_norm", "learning_rate", "loss")


class Params(Section):
    seed: Seed
    lora: Lora
    sft: Sft


def sft(
    sequences: dict[str, pl.DataFrame], vocabulary: pl.DataFrame, params: Params, model: Path, scratch: Path,
    micro_batch: int = MICRO_BATCH,
) -> tuple[SequenceTrainer, dict]:
    """Train an adapter; returns the trainer, its model at the best look, and the metrics.

    Conversations are learned by plain cross-entropy. The looks at the validation data are at the loss that is trained,
    logit-adjusted or not, by the prior of the training events.

    Args:
        sequences: tables `train`, `valid` and `auxiliary` of token sequences.
        vocabulary: tells anchors from tail, and how frequent each behaviour is.
        params: `seed`, `lora` and `sft` are used; `sft.labels` is not `none`, see `untuned`.
        model: folder with base.json.
        scratch: folder of checkpoints.
        micro_batch: most sequences in one forward pass; changes speed and memory only.

    Raises:
        UserError: there is nothing to train on, to look at or to mix in, or no adjustment fits the labels' tokens.
    """
    trained, tau = trained_behaviors(vocabulary, params.sft), params.sft.logit_adjustment
    # none at 0, whose shifts would change nothing but the time
    adjustment = LogitAdjustment.of(sequences["train"], vocabulary, trained, tau) if tau else None
    train, valid = (labelled(sequences[split], trained, adjustment) for split in ("train", "valid"))
    for split, samples in (("training", train), ("validation", valid)):
        if not len(samples):
            raise UserError(f"sft.labels: {params.sft.labels}: no {split} sequence has such a label")
    chats, counts = auxiliary_share(sequences["auxiliary"], train["length"], params.sft.epsilon, params.seed)
    samples = concatenate_datasets([train, labelled(chats, [-1], adjustment)]) if len(chats) else train
    config = SFTConfig(
        **arguments(params.sft, len(samples), scratch, params.seed, micro_batch),
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    tokenizer = load_tokenizer(model)
    trainer, best = fit(
        lambda callbacks: SequenceTrainer(
            model=new_adapter(model, params.lora, params.seed), args=config, train_dataset=samples, eval_dataset=valid,
            processing_class=tokenizer, callbacks=callbacks, schedule=params.sft, adjustment=adjustment,
        ),
        f"A-Tuning ({params.sft.labels})", scratch, "eval_loss", greater_is_better=False, patience=params.sft.patience,
    )
    counts |= {"sequences": len(train), "labels": params.sft.labels, "trained_behaviors": len(trained)}
    return trainer, counts | summary(trainer, best)


def untuned(params: Params, model: Path) -> tuple[PeftModel, dict]:
    """What `sft.labels: none` makes: a fresh adapter, which leaves the model as it is (B = 0), and the metrics.

    They lack `first_look` and `best_look`: without labels there is no loss.
    """
    nothing = ("steps", "best_step", "trained_parameters", "sequences", "trained_behaviors", "epsilon",
               "auxiliary_conversations", "auxiliary_tokens", "auxiliary_passes")
    return new_adapter(model, params.lora, params.seed), {"labels": params.sft.labels} | dict.fromkeys(nothing, 0)


def trained_behaviors(vocabulary: pl.DataFrame, params: Sft) -> list[int]:
    """Numbers of the behaviours in the vocabulary that `sft.labels` stands for."""
    anchor = vocabulary["is_anchor"].to_numpy()
    chosen = {
        "anchors": anchor, "all": np.ones_like(anchor), "tail": ~anchor, "none": np.zeros_like(anchor),
        "tail_and_medium": (vocabulary["group"] != "head").to_numpy(),
    }[params.labels]
    return np.flatnonzero(chosen).tolist()


def auxiliary_share(
    chats: pl.DataFrame, lengths: list[int], epsilon: float, seed: int
) -> tuple[pl.DataFrame, dict]:
    """Conversations of about `epsilon` times the behaviour sequences' tokens, a seeded choice; and what came of it.

    Where there are too few they are repeated, and `auxiliary_passes` says how often.
    """
    sizes = chats["input_ids"].list.len().to_numpy()
    wanted = epsilon * sum(lengths)
    if wanted and not len(sizes):
        raise UserError(f"sft.epsilon: {epsilon}: there are no conversations to mix in")
    rng = stream(seed, "sft auxiliary")
    chosen: list[int] = []
    total = 0
    while total < wanted:
        for i in rng.permutation(len(sizes)):
            # the last one is taken where it brings the sum closer
            if wanted - total < sizes[i] / 2:
                total = max(total, wanted)
                break
            chosen.append(int(i))
            total += sizes[i]
    tokens = int(sizes[chosen].sum()) if chosen else 0
    return chats[chosen], {
        "auxiliary_conversations": len(chosen), "auxiliary_tokens": tokens, "epsilon": tokens / sum(lengths),
        "auxiliary_passes": tokens / max(1, int(sizes.sum())),
    }


def untuned_or_tuned(
    instructions: dict[str, pl.DataFrame], vocabulary: pl.DataFrame, model: Path, params: Params, scratch: Path,
    micro_batch: int = MICRO_BATCH,
) -> tuple | None:
    """What the stage writes: the adapter with its base's manifest, the history and the counts.

    None in processes of `accelerate launch` other than the first.
    """
    manifest = read_manifest(model)
    if params.sft.labels == "none":
        if int(os.environ.get("RANK", "0")):
            return None
        adapter, counts = untuned(params, model)
        return (adapter, manifest), ([], LOGGED), counts
    trainer, counts = sft(instructions, vocabulary, params, model, scratch, micro_batch)
    if not trainer.is_world_process_zero():
        return None
    adapter = trainer.accelerator.unwrap_model(trainer.model)
    return (adapter, manifest), (trainer.state.log_history, ()), counts


def _message(args: Any, adapter: Any, history: Any, counts: dict) -> str:
    if counts["labels"] == "none":
        return "A-Tuning: sft.labels is none: nothing was trained, the adapter leaves the model as it is"
    return (f"A-Tuning: validation loss {counts['first_look']:.3f} -> {counts['best_look']:.3f} at step "
            f"{counts['best_step']} of {counts['steps']}")


STAGE = Stage(
    "sft", __doc__, untuned_or_tuned, Params,
    reads={"instructions": table_folder("instructions", "folder of token sequences (from stage instructions)"),
           "vocabulary": table("vocabulary"), "model": place("folder with base.json")},
    writes={"out": adapter_folder("folder for the SFT adapter"), "history": HISTORY, "counts": COUNTS},
    options={"micro_batch": micro_batch_option(MICRO_BATCH, "sequences")}, resumes=True, message=_message,
)

if __name__ == "__main__":
    STAGE.run()
