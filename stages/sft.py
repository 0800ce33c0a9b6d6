"""Stage `sft`: A-Tuning (paper 3.2), or its controls by `sft.labels`: a LoRA adapter from labelled sequences.

Runs on several devices by `accelerate launch -m stages.sft ...`; an interrupted run goes on where it was.
"""

from pathlib import Path

import numpy as np
import polars as pl
from datasets import concatenate_datasets
from trl import SFTConfig

from stages.common import tables
from stages.common.console import console
from stages.common.errors import UserError, run
from stages.common.files import fingerprint
from stages.common.inputs import add_training_options, read_tables, stage_parser
from stages.common.params import Params, Sft, read_params
from stages.lm.load import load_tokenizer, new_adapter
from stages.lm.sft_trainer import MICRO_BATCH, SequenceTrainer, labelled
from stages.lm.training import arguments, checkpoint_folder, finish, fit, summary

TABLES = ("vocabulary",)


def sft(
    sequences: dict[str, pl.DataFrame], vocabulary: pl.DataFrame, params: Params, model: Path, scratch: Path,
    micro_batch: int = MICRO_BATCH,
) -> tuple[SequenceTrainer, dict]:
    """Train an adapter; returns the trainer, its model at the best look, and the metrics.

    Args:
        sequences: tables `train`, `valid` and `auxiliary` of token sequences.
        vocabulary: tells anchors from tail.
        params: `seed`, `lora` and `sft` are used.
        model: folder with base.json.
        scratch: folder of checkpoints.
        micro_batch: most sequences in one forward pass; changes speed and memory only.
    """
    trained = trained_behaviors(vocabulary, params.sft)
    train, valid = labelled(sequences["train"], trained), labelled(sequences["valid"], trained)
    for split, samples in (("training", train), ("validation", valid)):
        if not len(samples):
            raise UserError(f"sft.labels: {params.sft.labels}: no {split} sequence has such a label")
    chats, counts = auxiliary_share(sequences["auxiliary"], train["length"], params.sft.epsilon, params.seed)
    samples = concatenate_datasets([train, labelled(chats, [-1])]) if len(chats) else train
    config = SFTConfig(
        **arguments(params.sft, len(samples), scratch, params.seed, micro_batch),
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    tokenizer = load_tokenizer(model)
    trainer, best = fit(
        lambda callbacks: SequenceTrainer(
            model=new_adapter(model, params.lora, params.seed), args=config, train_dataset=samples, eval_dataset=valid,
            processing_class=tokenizer, callbacks=callbacks, schedule=params.sft,
        ),
        f"A-Tuning ({params.sft.labels})", scratch, "eval_loss", greater_is_better=False, patience=params.sft.patience,
    )
    counts |= {"sequences": len(train), "labels": params.sft.labels, "trained_behaviors": len(trained)}
    return trainer, counts | summary(trainer, best)


def trained_behaviors(vocabulary: pl.DataFrame, params: Sft) -> list[int]:
    """Numbers of the behaviours in the vocabulary that `sft.labels` stands for."""
    anchor = vocabulary["is_anchor"].to_numpy()
    chosen = {"anchors": anchor, "all": np.ones_like(anchor), "tail": ~anchor}[params.labels]
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
    rng = np.random.default_rng([seed, 1])
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


def main() -> None:
    parser = stage_parser("sft", __doc__, TABLES, model="folder with base.json", out="folder for the A-tuned adapter")
    parser.add_argument("--instructions", type=Path, required=True,
                        help="folder of token sequences (from stage instructions)")
    add_training_options(parser, MICRO_BATCH, "sequences")
    args = parser.parse_args()
    params = read_params(args.params)
    names = ("train", "valid", "auxiliary")
    sequences = {name: tables.read("instructions", args.instructions / f"{name}.parquet") for name in names}
    inputs = [args.instructions, args.vocabulary, args.model, Path(__file__).parent]
    used = [params.seed, params.lora.model_dump(), params.sft.model_dump()]
    scratch = checkpoint_folder("sft", fingerprint(used, inputs))
    (vocabulary,) = read_tables(args, TABLES)
    trainer, metrics = sft(sequences, vocabulary, params, args.model, scratch, args.micro_batch)
    if not trainer.is_world_process_zero():
        return
    finish(trainer, metrics, args, scratch)
    console.print(
        f"A-Tuning: validation loss {metrics['first_look']:.3f} -> {metrics['best_look']:.3f} at step "
        f"{metrics['best_step']} of {metrics['steps']}"
    )


if __name__ == "__main__":
    run(main)
