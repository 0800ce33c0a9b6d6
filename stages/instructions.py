"""Stage `instructions`: windows and conversations become tokenised training sequences (D_ins and C_ins in the paper).

Sequences hold every label; which of them a loss is put on is `sft.labels`' choice, so anchors-only and all-labels
training see the same sequences.
"""

import polars as pl
from transformers import PreTrainedTokenizerBase

from stages.common import tables
from stages.common.console import console
from stages.common.draws import stream
from stages.common.errors import UserError, run
from stages.common.files import atomic_folder, write_json
from stages.common.inputs import read_tables, stage_parser
from stages.common.params import Params, read_params
from stages.model.load import load_tokenizer
from stages.prompts.conversations import encode_conversation
from stages.prompts.layout import Layout, TokenSequence, table
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog

TABLES = ("events", "windows", "vocabulary", "conversations")


def instructions(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, conversations: pl.DataFrame,
    tokenizer: PreTrainedTokenizerBase, params: Params,
) -> tuple[dict[str, pl.DataFrame], dict]:
    """Tables `train`, `valid` and `auxiliary` of token sequences, and the counts."""
    layout = layout_of(tokenizer, EventLog.from_tables(events, vocabulary), params)
    limits = {"train": params.instructions.train_targets, "valid": params.instructions.valid_targets}
    frames, counts = {}, {"layout": params.prompt.layout}
    for split, limit in limits.items():
        rows = windows.filter(pl.col("split") == split)["row"].sort().to_numpy()
        if not len(rows):
            raise UserError(f"no window of split {split}: the log has too few users, or too short ones")
        before = layout.dropped
        sequences = layout.sequences(rows, limit, stream(params.seed, f"instructions {split}"))
        frames[split] = table(sequences)
        counts[split] = _counts(sequences, layout, layout.dropped - before)
    chats = [encode_conversation(tokenizer, turns) for turns in conversations["turns"].to_list()]
    frames["auxiliary"] = table(chats)
    counts["auxiliary"] = {"sequences": len(chats), "tokens": sum(len(c.input_ids) for c in chats)}
    return frames, counts


def _counts(sequences: list[TokenSequence], layout: Layout, dropped: int) -> dict:
    tokens, targets = sum(len(s.input_ids) for s in sequences), sum(len(s.spans) for s in sequences)
    seen = {behavior for s in sequences for behavior in s.behaviors}
    return {
        "sequences": len(sequences), "targets": targets, "tokens": tokens, "tokens_per_target": tokens / max(targets, 1),
        "longest": max(len(s.input_ids) for s in sequences), "events_dropped": dropped,
        "behaviors_without_target": len(layout.candidates) - len(seen),
    }


def main() -> None:
    args = stage_parser(
        "instructions", __doc__, TABLES, model="folder with base.json, for its tokenizer",
        out="folder for train, valid and auxiliary sequences",
    ).parse_args()
    frames, counts = instructions(*read_tables(args, TABLES), load_tokenizer(args.model), read_params(args.params))
    with atomic_folder(args.out) as folder:
        for name, frame in frames.items():
            tables.write(frame, "instructions", folder / f"{name}.parquet")
    write_json(args.metrics, counts)
    train = counts["train"]
    console.print(
        f"instructions: {train['targets']:,} training targets in {train['sequences']:,} sequences, "
        f"{train['tokens_per_target']:.1f} tokens a target"
    )


if __name__ == "__main__":
    run(main)
