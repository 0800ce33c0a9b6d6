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

from pathlib import Path
from typing import Any

import polars as pl
from datasets import Dataset

from stages.baselines.fitting.settings import Counts, Rates
from stages.baselines.fitting.task import Task
from stages.baselines.language.baseline import Adapted, LanguageBaseline, language
from stages.common.draws import stream
from stages.common.errors import UserError
from stages.common.params import Positive
from stages.common.stage import table
from stages.prompts import layout, layouts
from stages.prompts.conversations import encode_conversation
from stages.training.sequences import labelled

_VALIDATED_OF = 10  # one conversation of so many


class Settings(Adapted):
    chat_learning_rate: Rates
    chat_epochs: Counts
    chat_batch_size: Positive


class TALLRec(LanguageBaseline):
    section, kind, modules = "tallrec", Settings, ("q_proj", "v_proj")

    def __init__(self, task: Task, model: Path, conversations: pl.DataFrame):
        super().__init__(task, model)
        self.chats, self.valid_chats = self._chats(conversations)

    def make_layout(self) -> layout.Layout:
        return layouts.layout_of(self.tokenizer, self.log, self.params)

    def learn(self, settings: dict[str, Any]) -> dict[str, Any]:
        chat_loss = self.first_stage("TALLRec, instructions", settings, "chat_", self.chats, self.valid_chats)
        course, record = self.tune("TALLRec, recommending", settings)
        return {"chat_loss": chat_loss, "first_loss": course.first} | record

    def _chats(self, conversations: pl.DataFrame) -> tuple[Dataset, Dataset]:
        """Conversations to train on, and one of ten to validate on."""
        turns = conversations["turns"].to_list()
        if len(turns) < 2:
            raise UserError(f"conversations: {len(turns)}; stage 1 needs one to learn from and one to validate on")
        order = stream(self.params.seed, "tallrec conversations").permutation(len(turns))
        held = max(1, len(turns) // _VALIDATED_OF)
        trained, validated = (
            labelled(layout.table([encode_conversation(self.tokenizer, turns[i]) for i in part]), [-1])
            for part in (order[held:], order[:held])
        )
        return trained, validated


STAGE = language("tallrec", __doc__, TALLRec, {"conversations": table("conversations")})

if __name__ == "__main__":
    STAGE.run()
