"""SASRec's blocks and model, its fit, and what one that is fitted knows of behaviours and of people's histories."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from stages.baselines.fitting.sequences import Batch, Sequences
from stages.baselines.fitting.settings import Context, Transformer
from stages.baselines.fitting.task import Task
from stages.baselines.sequential.embedder import Embedder
from stages.baselines.sequential.objectives import Causal, Objective
from stages.baselines.sequential.stage import tuned
from stages.baselines.sequential.training import Fitted
from stages.common.checksums import check_folder
from stages.common.errors import UserError
from stages.common.files import read_json
from stages.common.stage import place

_USERS_AT_ONCE = 1024
_COMMAND = "python -m stages.baselines.systems.sasrec --weights"

WEIGHTS = place(f"folder of a SASRec's weights ({_COMMAND})")

Settings = Transformer


class Encoder(nn.Module):
    """Causal transformer blocks `(B, T, D) -> (B, T, D)` that never read padding."""

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
    return tuned(task, "sasrec", Settings, f"SASRec ({objective}, {task.context})",
                 lambda settings: SASRec(task.sequences, settings, task.context, objective))


def load_sasrec(folder: Path, sequences: Sequences) -> SASRec:
    """The SASRec of a folder of weights, frozen; its context mode is in its weights.

    Raises:
        UserError: the folder does not hold one, a damaged one, or one of another log.
    """
    if (folder / "model.safetensors").exists():
        check_folder(folder)
    try:
        state, settings = load_file(folder / "model.safetensors"), read_json(folder / "settings.json")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"--sasrec: {folder}: no SASRec ({error}); fit one with `{_COMMAND}`") from None
    parts = {name.split(".")[1] for name in state}
    context: Context = "next" if "later" in parts else "history" if "now" in parts else "id"
    try:
        model = SASRec(sequences, settings, context, "ce")
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise UserError(f"--sasrec: {folder}: a SASRec of another log, vocabulary or history ({error})") from None
    return model.eval().requires_grad_(False)


def item_vectors(model: SASRec) -> torch.Tensor:
    """Its input vectors `(V + 1, D)` of the behaviours, and of all others together."""
    return model.embedder.behaviors.weight[: model.embedder.size + 1].detach()


@torch.no_grad()  # and not inference mode: a projector is trained on them
def user_vectors(model: SASRec, sequences: Sequences, users: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Its last hidden states `(U, D)` before event `row`, of the events `first` and later, for each pair of `users`.

    Of the last T at most, as it was trained; of none for a person of whom nothing is known.
    """
    parts = [torch.empty(0, model.embedder.behaviors.embedding_dim)]
    for start in range(0, len(users), _USERS_AT_ONCE):
        first, row = np.array(users[start : start + _USERS_AT_ONCE]).T
        batch = sequences.windows(row)
        at = row[:, None] - np.arange(sequences.length, 0, -1)
        unknown = torch.from_numpy(at < first[:, None])
        batch = replace(batch, weekday=batch.weekday.masked_fill(unknown, sequences.contexts[0] - 1))  # as padding
        parts.append(model.encoder(model.embedder(batch), batch.padding)[:, -1])
    return torch.cat(parts)
