"""SASRec (Kang and McAuley 2018): a small causal transformer over behaviours, with its published objective or softmax.

`bce`, as published, weighs each label against one negative (`losses.binary_cross_entropy` says which); `ce` is the full
softmax, with which Klenitskiy and Vasilev (2023) found it far stronger. Blocks are torch's: pre-norm, with a ReLU layer
of the width of the vectors between, and a norm at the end; scores are inner products with the behaviours' vectors.
"""

from typing import Any

import torch
from torch import nn

from stages.baselines.fitting.command import Task, run_system
from stages.baselines.fitting.settings import Context, Transformer
from stages.baselines.sequential.causal import OBJECTIVES, Causal, Objective
from stages.baselines.sequential.embedder import Embedder
from stages.baselines.sequential.sequences import Batch, Sequences
from stages.baselines.sequential.training import Fitted, fit
from stages.common.errors import run

Settings = Transformer


class Encoder(nn.Module):
    """Causal transformer blocks `(B, T, D) -> (B, T, D)` that never look at padding."""

    def __init__(self, dimensions: int, blocks: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(dimensions, heads, dimensions, dropout, batch_first=True, norm_first=True)
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(dimensions)

    def forward(self, vectors: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        mask = (~seen(padding)).repeat_interleave(self.heads, dim=0)
        hidden = self.dropout(vectors)
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask)
        return self.norm(hidden)


def seen(padding: torch.Tensor) -> torch.Tensor:
    """`(B, T, T)`: True where the second position is visible from the first; padding `(B, T)` sees itself alone."""
    own = torch.eye(padding.shape[1], dtype=torch.bool, device=padding.device)
    return torch.ones_like(own).tril() & (~padding[:, None, :] | own)  # a softmax needs something


class SASRec(Causal):
    def __init__(self, sequences: Sequences, settings: dict[str, Any], context: Context, objective: Objective):
        super().__init__(objective)
        dimensions = settings["dimensions"]
        self.embedder = Embedder(sequences.size, sequences.contexts, sequences.length, dimensions, context)
        self.encoder = Encoder(dimensions, settings["blocks"], settings["heads"], settings["dropout"])

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.embedder.scores(self.encoder(self.embedder(batch), batch.padding))


def fit_sasrec(task: Task, objective: Objective) -> Fitted[SASRec]:
    """SASRec on the task's training windows, tuned within its budget."""
    budget, values = task.settings("sasrec", Settings)
    return fit(
        f"SASRec ({objective}, {task.context})",
        lambda settings: SASRec(task.sequences, settings, task.context, objective),
        task.sequences, values, budget, task.seed,
    )


def main() -> None:
    run_system("sasrec", __doc__, lambda task, args: fit_sasrec(task, args.objective), objectives=OBJECTIVES)


if __name__ == "__main__":
    run(main)
