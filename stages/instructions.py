"""Stage `instructions`: windows and conversations become tokenised training sequences (D_ins and C_ins in the paper).

Sequences hold every label; which of them a loss is put on is `sft.labels`' choice, so anchors-only and all-labels
training see the same sequences.
"""

from typing import Any

import polars as pl
from transformers import PreTrainedTokenizerBase

from stages.common.draws import stream
from stages.common.errors import UserError
from stages.common.params import Seed
from stages.common.stage import COUNTS, Stage, place, table_folder
from stages.common.stage import table as table_file
from stages.model.load import load_tokenizer
from stages.prompts.conversations import encode_conversation
from stages.prompts.layout import Layout, TokenSequence, table
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.prompts.settings import Instructions, PromptParams


class Params(PromptParams):
    seed: Seed
    instructions: Instructions


def instructions(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, conversations: pl.DataFrame,
    tokenizer: PreTrainedTokenizerBase, params: Params,
) -> tuple[dict[str, pl.DataFrame], dict]:
    """Tables `train`, `valid` and `auxiliary` of token sequences, and the counts."""
    layout = layout_of(tokenizer, EventLog.from_tables(events, vocabulary), params)
    limits = {"train": params.instructions.train_targets, "valid": params.instructions.valid_targets}
    frames: dict[str, pl.DataFrame] = {}
    counts: dict[str, Any] = {"layout": params.prompt.layout}
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
        "sequences": len(sequences), "targets": targets, "tokens": tokens,
        "tokens_per_target": tokens / max(targets, 1),
        "longest": max(len(s.input_ids) for s in sequences), "events_dropped": dropped,
        "behaviors_without_target": len(layout.candidates) - len(seen),
    }


STAGE = Stage(
    "instructions", __doc__,
    lambda model, **given: instructions(tokenizer=load_tokenizer(model), **given), Params,
    reads={name: table_file(name) for name in ("events", "windows", "vocabulary", "conversations")}
    | {"model": place("folder with base.json, for its tokenizer")},
    writes={"out": table_folder("instructions", "folder for train, valid and auxiliary sequences"), "counts": COUNTS},
    message=lambda args, frames, counts: "instructions: {targets:,} training targets in {sequences:,} sequences, "
        "{tokens_per_target:.1f} tokens a target".format(**counts["train"]),
)

if __name__ == "__main__":
    STAGE.run()
