"""TALLRec (Bao et al. 2023): a language model learns to follow instructions, then, on the same adapter, to recommend.

Kept as published: two stages on one LoRA adapter of rank 8, alpha 16, dropout 0.05 on the query and value
projections, the second going on where the first ended; their rates, 3e-4 and 1e-4, as defaults.

Different, and why: the answer is a label of the vocabulary and not Yes or No on one target, which would be read V
times a window. The loss is on answers only, the published one on prompts too. Stage 1 learns from the project's
conversations, where the published one has Alpaca. Steps take as many sequences as the project's own, not 128, and the
rate falls in a cosine. Prompts are the project's own (`prompt.layout`): with A-Tuning's adapter and stage 2 alone this
would be A-Tuning on all labels (`sft.labels: all`, `sft.epsilon: 0`). Validation is by loss, not area under the curve.

Context mode by --context. Checked: the first validation of stage 2 is the loss of stage 1's model
(tests/baselines/test_tallrec.py).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from datasets import Dataset

from stages.baselines.fitting.command import Task
from stages.baselines.fitting.settings import Counts, Rates
from stages.baselines.language.rows import Adapted, LanguageRow, run_row
from stages.baselines.language.training import Plan, train
from stages.common.errors import UserError, run
from stages.common import tables
from stages.common.params import Positive
from stages.prompts.conversations import encode_conversation
from stages.prompts.layouts import Layout, layout_of, table
from stages.training.loop import copied, restore
from stages.training.sequences import labelled

_STREAM = 8  # tells the choice of conversations to look at from the others of the same seed
_LOOKED_AT = 10  # one conversation of so many


class Settings(Adapted):
    chat_learning_rate: Rates
    chat_epochs: Counts
    chat_batch_size: Positive


class TALLRec(LanguageRow):
    section, kind, modules = "tallrec", Settings, ("q_proj", "v_proj")

    def __init__(self, task: Task, folder: Path, conversations: pl.DataFrame):
        """
        Raises:
            UserError: there are fewer than two conversations.
        """
        super().__init__(task, folder)
        self.chats, self.looked_at = self._chats(conversations)
        self._instructed: dict[tuple, tuple[dict[str, torch.Tensor], float]] = {}

    def make_layout(self) -> Layout:
        return layout_of(self.tokenizer, self.log, self.params)

    def learn(self, settings: dict[str, Any]) -> dict[str, Any]:
        chat_loss = self.instruct(settings)
        course = train("TALLRec, recommending", self.model, self.weights(), self.train, self.valid,
                       Plan.of(settings, self.budget.patience), self.params.seed)
        return {"chat_loss": chat_loss, "first_loss": course.values[0], "loss": course.best, "step": course.best_step,
                "steps": course.steps}

    def instruct(self, settings: dict[str, Any]) -> float:
        """Stage 1, once for all settings that do not differ in it; the loss on the conversations looked at."""
        plan = Plan.of(settings, self.budget.patience, "chat_")
        key = plan, settings["dropout"]
        if key not in self._instructed:
            course = train("TALLRec, instructions", self.model, self.weights(), self.chats, self.looked_at, plan,
                           self.params.seed)
            self._instructed[key] = copied(self.weights()), course.best
        kept, loss = self._instructed[key]
        restore(self.weights(), kept)
        return loss

    def _chats(self, conversations: pl.DataFrame) -> tuple[Dataset, Dataset]:
        """Conversations to train on, and one of ten to look at."""
        turns = conversations["turns"].to_list()
        if len(turns) < 2:
            raise UserError(f"conversations: {len(turns)}; stage 1 needs one to learn from and one to look at")
        order = np.random.default_rng([self.params.seed, _STREAM]).permutation(len(turns))
        held = max(1, len(turns) // _LOOKED_AT)
        trained, looked_at = (
            labelled(table([encode_conversation(self.tokenizer, turns[i]) for i in part]), [-1])
            for part in (order[held:], order[:held])
        )
        return trained, looked_at


def main() -> None:
    def make(task: Task, args: argparse.Namespace) -> TALLRec:
        return TALLRec(task, args.model, tables.read("conversations", args.conversations))

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--conversations", type=Path, required=True, help=f"table: {tables.CONTENT['conversations']}")

    run_row("tallrec", __doc__, make, options)


if __name__ == "__main__":
    run(main)
