"""Stage `auxiliary`: general conversations for A-Tuning (C_ins in the paper), read from a file or written by the model.

A stage of its own, so that neither ε nor the log's windows make the model write them again.
"""

from pathlib import Path

import numpy as np
import polars as pl
import torch

from stages.common import tables
from stages.common.console import console
from stages.common.draws import stream
from stages.common.errors import UserError
from stages.common.files import sha256
from stages.common.params import Section, Seed
from stages.common.stage import COUNTS, Stage, place, table
from stages.model.generate import answer_prompts
from stages.model.load import load_base, load_tokenizer
from stages.prompts.conversations import encode_conversation, read_conversations
from stages.prompts.settings import Auxiliary

SELF = "self"
# Room for a question and the chat format around it, in tokens of auxiliary.max_tokens.
_QUESTION_TOKENS = 80


class Params(Section):
    data_seed: Seed
    auxiliary: Auxiliary


def auxiliary(params: Auxiliary, model: Path, prompts: Path, seed: int) -> tuple[pl.DataFrame, dict]:
    """Conversations no longer than `max_tokens`, at most `conversations` of them, a seeded choice; and the counts."""
    tokenizer = load_tokenizer(model)
    if params.source == SELF:
        found, origin = _own_answers(params, model, prompts, seed), {"source": SELF}
    else:
        path = _locate(params.source, prompts.parent)
        found, origin = read_conversations(path), {"source": path.name, "sha256": sha256(path)}
    lengths = np.array([len(encode_conversation(tokenizer, turns).input_ids) for turns in found])
    fitting = np.flatnonzero(lengths <= params.max_tokens)
    if not len(fitting):
        raise UserError(
            f"auxiliary.max_tokens: {params.max_tokens}: all {len(found)} conversations of {params.source} are longer; "
            f"the shortest has {lengths.min()} tokens"
        )
    rng = stream(seed, "auxiliary conversations")
    kept = np.sort(rng.permutation(fitting)[: params.conversations])
    frame = pl.DataFrame({"turns": [found[i] for i in kept]}, schema=tables.SCHEMAS["conversations"])
    counts = {
        "found": len(found), "too_long": len(found) - len(fitting), "kept": len(kept),
        "tokens": int(lengths[kept].sum()), "median_tokens": float(np.median(lengths[kept])),
    }
    return frame, origin | counts


def _own_answers(params: Auxiliary, model: Path, prompts: Path, seed: int) -> list[list[str]]:
    questions = [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    new_tokens = max(8, min(96, params.max_tokens - _QUESTION_TOKENS))
    # one token at a time, bf16 is slower than float32 on a CPU
    dtype = None if torch.cuda.is_available() else torch.float32
    answers = answer_prompts(
        load_base(model, dtype), load_tokenizer(model), questions[: params.conversations], new_tokens, seed
    )
    found = [[question, answer] for question, answer in zip(questions, answers, strict=False) if answer]
    if not found:
        raise UserError(
            f"auxiliary.source: {SELF}: the model answered none of {prompts} in whole sentences; is it a chat model? "
            "A file of conversations works with any"
        )
    return found


def _locate(source: str, folder: Path) -> Path:
    """A path as given, or a name in the folder that DVC watches; the latter is what makes a change of it seen."""
    path = Path(source).expanduser()
    if not path.exists() and (folder / source).exists():
        path = folder / source
    if folder.resolve() not in path.resolve().parents:
        console.print(f"note: auxiliary.source lies outside {folder}/: `dvc repro` will not notice when it changes")
    return path


STAGE = Stage(
    "auxiliary", __doc__,
    lambda model, prompts, params: auxiliary(params.auxiliary, model, prompts, params.data_seed), Params,
    reads={"model": place("folder with base.json"),
           "prompts": place("everyday prompts, one a line, for source `self`")},
    writes={"out": table("conversations"), "counts": COUNTS},
    message=lambda args, frame, counts: f"auxiliary task: {counts['kept']} conversations, {counts['tokens']:,} tokens",
)

if __name__ == "__main__":
    STAGE.run()
