"""Stage `sft`: a LoRA adapter learns the behaviours that `sft.labels` names (anchors: the paper's A-Tuning, 3.2).

`sft.logit_adjustment` changes the loss (stages/training/adjustment.py); `sft.labels: none` trains nothing. Runs on
several devices by `torchrun -m stages.sft ...`; an interrupted run goes on where it was.
"""

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
from stages.common.stage import COUNTS, Stage, optional, place, table, table_folder
from stages.common.tables import PRIOR_TOKENS
from stages.model.load import adapter_folder, load_tokenizer, new_adapter
from stages.model.prior import Prior, read_priors
from stages.model.settings import Lora
from stages.training.adjustment import LogitAdjustment
from stages.training.prior import PriorAdjustment
from stages.training.sequences import MICRO_BATCH, Adjustment, labelled
from stages.training.settings import Sft
from stages.training.sft_trainer import SequenceTrainer
from stages.training.trainer import arguments, fit, history_csv, micro_batch_option, outputs

# What a run that trains logs beside step and epoch: DVC plots want the columns where nothing was trained, too
LOGGED = ("eval_loss", "grad_norm", "learning_rate", "loss")


class Params(Section):
    seed: Seed
    lora: Lora
    sft: Sft


def sft(
    instructions: dict[str, pl.DataFrame], vocabulary: pl.DataFrame, params: Params, model: Path, scratch: Path,
    micro_batch: int = MICRO_BATCH, history: Path | None = None, prior: pl.DataFrame | None = None,
) -> tuple[SequenceTrainer, dict]:
    """Train an adapter; returns the trainer, its model at the best validation, and the counts.

    Conversations are learned by plain cross-entropy. A validation is of the loss that is trained, logit-adjusted or
    not, by the prior of the training events.

    Args:
        instructions: tables `train`, `valid` and `auxiliary` of token sequences.
        vocabulary: which behaviours are anchors, and how frequent each is.
        params: `sft.labels` is not `none`, see `untuned`.
        model: folder with base.json.
        scratch: folder of checkpoints.
        micro_batch: most sequences in one forward pass; changes speed and memory only.
        history: where what has been logged can be watched, if anywhere.
        prior: what the model is told of events: in the prompts where these have tokens of it, else in the loss.

    Raises:
        UserError: there is nothing to train on, to validate on or to mix in, or no adjustment fits the labels' tokens.
    """
    told = None if prior is None or prior.is_empty() else Prior(prior)
    in_prompts = any(ids.max() >= PRIOR_TOKENS for ids in instructions["train"]["input_ids"])
    if in_prompts and told is None:
        raise UserError("instructions: made with prompt.prior vector, and there is no prior; run `dvc repro sft`")
    trained = trained_behaviors(vocabulary, params.sft)
    adjustment = _adjustment(instructions, vocabulary, trained, params.sft, None if in_prompts else told)
    train, valid = (labelled(instructions[split], trained, adjustment) for split in ("train", "valid"))
    for split, samples in (("training", train), ("validation", valid)):
        if not len(samples):
            raise UserError(f"sft.labels: {params.sft.labels}: no {split} sequence has such a label")
    chats, counts = auxiliary_share(instructions["auxiliary"], train["length"], params.sft.epsilon, params.seed)
    samples = concatenate_datasets([train, labelled(chats, [-1], adjustment)]) if len(chats) else train
    config = SFTConfig(
        **arguments(params.sft, len(samples), scratch, params.seed, micro_batch),
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    tokenizer = load_tokenizer(model)

    def adapter() -> PeftModel:
        made = new_adapter(model, params.lora, params.seed)
        if told and in_prompts:
            read_priors(made.get_base_model(), tokenizer, vocabulary, told)
        return made

    trainer, found = fit(
        lambda callbacks: SequenceTrainer(
            model=adapter(), args=config, train_dataset=samples, eval_dataset=valid, processing_class=tokenizer,
            callbacks=callbacks, schedule=params.sft, adjustment=adjustment,
        ),
        f"SFT ({params.sft.labels})", scratch, "eval_loss", greater_is_better=False, patience=params.sft.patience,
        history=history,
    )
    counts |= {"sequences": len(train), "labels": params.sft.labels, "trained_behaviors": len(trained)}
    return trainer, counts | found


def untuned(params: Params, model: Path) -> tuple[PeftModel, dict]:
    """What `sft.labels: none` makes: a fresh adapter, which leaves the model as it is (B = 0), and the counts.

    They lack `first_validation` and `best_validation`: without labels there is no loss.
    """
    nothing = ("steps", "best_step", "trained_parameters", "sequences", "trained_behaviors", "epsilon",
               "auxiliary_conversations", "auxiliary_tokens", "auxiliary_passes")
    return new_adapter(model, params.lora, params.seed), {"labels": params.sft.labels} | dict.fromkeys(nothing, 0)


def _adjustment(
    instructions: dict[str, pl.DataFrame], vocabulary: pl.DataFrame, trained: list[int], params: Sft,
    prior: Prior | None,
) -> Adjustment | None:
    """What the logits are shifted by: a prior of each target, or that of the labels; none where τ is 0, which would
    change nothing but the time.

    Raises:
        UserError: both are asked for.
    """
    tau = params.logit_adjustment
    if prior is None:
        return LogitAdjustment.of(instructions["train"], vocabulary, trained, tau) if tau else None
    if tau:
        raise UserError(f"sft.logit_adjustment: {tau:g}: not beside prompt.prior logits, which shifts them itself; "
                        "set it to 0, or prompt.prior to none")
    return PriorAdjustment.of(pl.concat([instructions["train"], instructions["valid"]]), trained, prior)


def compute(params: Params, model: Path, **given: Any) -> tuple:
    """`sft` or `untuned`, as `sft.labels` says."""
    if params.sft.labels == "none":
        adapter, counts = untuned(params, model)
        return outputs(adapter, [], counts, model)
    trainer, counts = sft(params=params, model=model, **given)
    return outputs(trainer.accelerator.unwrap_model(trainer.model), trainer.state.log_history, counts, model)


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
    total = 0.0
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


def _message(args: Any, adapter: Any, history: Any, counts: dict) -> str:
    if counts["labels"] == "none":
        return "SFT (none): nothing was trained, the adapter leaves the model as it is"
    return ("SFT ({labels}): validation loss {first_validation:.3f} -> {best_validation:.3f} at step {best_step} "
            "of {steps}").format(**counts)


STAGE = Stage(
    "sft", __doc__, compute, Params,
    reads={"instructions": table_folder("instructions", "folder of token sequences (from stage instructions)",
                                         ("train", "valid", "auxiliary")),
           "vocabulary": table("vocabulary"), "prior": optional(table("prior")),
           "model": place("folder with base.json")},
    writes={"out": adapter_folder("folder for the SFT adapter"), "history": history_csv(LOGGED), "counts": COUNTS},
    options={"micro_batch": micro_batch_option(MICRO_BATCH, "sequences")}, resumes=True, shares=True,
    message=_message,
)

if __name__ == "__main__":
    STAGE.run()
