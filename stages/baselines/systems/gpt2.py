"""GPT-2 from scratch: SASRec's objectives over GPT-2-small's blocks with random weights.

The comparison of the paper's section 4.3.2: as many blocks as a language model has, and none of its knowledge. The
body is the library's `GPT2Model`, 12 blocks of 768 dimensions (85 million parameters), fed with the events' vectors
instead of tokens'; its own learned positions count from the first event. Scores are inner products with the
behaviours' vectors.

Objectives as of SASRec: `bce`, one uniform negative for each label, and `ce`, the full softmax; at every position.
Context modes as the embedder has them. The rate rises over the first steps and then stays; products are in bf16 where
that is fast, scores in float32 always.
"""

from typing import Any

import torch
from transformers import GPT2Config, GPT2Model

from stages.baselines.fitting.sequences import Batch, Sequences
from stages.baselines.fitting.settings import Context, Transformer
from stages.baselines.fitting.task import Task
from stages.baselines.sequential.embedder import Embedder
from stages.baselines.sequential.objectives import OBJECTIVES, Causal, Objective
from stages.baselines.sequential.stage import sequential, tuned
from stages.baselines.sequential.training import Fitted
from stages.model.load import compute_dtype

Settings = Transformer


class GPT2(Causal):
    def __init__(self, sequences: Sequences, settings: dict[str, Any], context: Context, objective: Objective):
        super().__init__(objective)
        dimensions, dropout = settings["dimensions"], settings["dropout"]
        self.embedder = Embedder(sequences.size, sequences.contexts, None, dimensions, context)
        self.body = GPT2Model(
            GPT2Config(
                vocab_size=1, bos_token_id=None, eos_token_id=None, n_positions=sequences.length, n_embd=dimensions,
                n_layer=settings["blocks"], n_head=settings["heads"], resid_pdrop=dropout, embd_pdrop=dropout,
                attn_pdrop=dropout, use_cache=False,
            )
        )
        self.body.set_input_embeddings(None)  # the embedder stands in for it

    def forward(self, batch: Batch) -> torch.Tensor:
        """Scores `(B, T, V)` float32 of what follows each event."""
        there = (~batch.padding).long()
        with torch.autocast(there.device.type, torch.bfloat16, enabled=compute_dtype() == torch.bfloat16):
            hidden = self.body(
                inputs_embeds=self.embedder(batch), attention_mask=there,
                position_ids=(there.cumsum(dim=1) - 1).clamp(min=0),
            ).last_hidden_state
        return self.embedder.scores(hidden.float())


def fit_gpt2(task: Task, objective: Objective) -> Fitted[GPT2]:
    """GPT-2's blocks on the task's training windows, tuned within its budget."""
    return tuned(task, "gpt2", Settings, f"GPT-2 from scratch ({objective}, {task.context})",
                 lambda settings: GPT2(task.sequences, settings, task.context, objective))


STAGE = sequential("gpt2", __doc__, fit_gpt2, objectives=OBJECTIVES)

if __name__ == "__main__":
    STAGE.run()
