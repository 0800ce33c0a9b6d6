"""AlphaFuse (Hu et al. 2025): names span a frozen part of the behaviours' vectors, ids are learned beside it.

Names' vectors are centred, turned onto their principal axes and whitened; that part is frozen. Trainable id vectors
fill further coordinates. One causal block reads the sum with positions, and what follows is scored by the cosine of its
last state with each behaviour's vector, over a temperature: in training, and at prediction too, where the official code
falls back to inner products that it never trained. The objective is the published one, of a window's last position
alone, with every training window a sample.

What differs, because the vocabulary is small: the softmax is over all V behaviours instead of 64 drawn ones (which
would hold each many times); V vectors have V − 1 principal axes at most, so ids get coordinates of their own, while the
official code adds its 64 to the lesser half of 128 of the text; one head, as the width need not be even. And because of
the project's loop: weight decay is AdamW's, and an epoch is a draw of `windows_per_epoch` windows. The context modes
`history` and `next` are not published.

At full rank, V − 1, whitening leaves **nothing of what names mean**: every two behaviours are then equally far apart,
whatever they are called. Names have a meaning only where fewer axes are kept, hence `text_dimensions` is tuned.

Checks (tests/baselines/test_alphafuse.py): the frozen part is as it was after training, the names' inner products come
back from it, no axis without variance is divided by, and without text it is SASRec's body.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from stages.baselines.fitting.sequences import SPECIAL, Batch, Sequences
from stages.baselines.fitting.settings import Context, Trained, Tried
from stages.baselines.fitting.stage import MODEL
from stages.baselines.fitting.task import Task
from stages.baselines.language.names import load_names, principal
from stages.baselines.sequential.embedder import Embedder
from stages.baselines.sequential.objectives import Causal, cross_entropy
from stages.baselines.sequential.sasrec import Encoder
from stages.baselines.sequential.stage import sequential, tuned
from stages.baselines.sequential.training import Fitted
from stages.common.errors import UserError
from stages.common.params import Count, Positive

_BLOCKS, _HEADS = 1, 1


class Settings(Trained):
    text_dimensions: Tried[Count]
    """At most this many principal axes of the names; 0 for none."""
    id_dimensions: Tried[Count]
    id_start: Tried[Literal["zeros", "normal"]]
    temperature: Tried[Annotated[float, Field(gt=0)]]
    windows_per_epoch: Positive


def whiten(vectors: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates `(V, R)` of names on their first principal axes, of variance 1 each, and what variance was `(R,)`.

    R is `most` or the rank of the centred `vectors` `(V, H)`, whichever is less.
    """
    coordinates, variance = (part[..., :most] for part in principal(vectors))
    return coordinates / np.sqrt(variance), variance


class Fused(nn.Module):
    """Vectors `(V + 3, R + N)` of behaviours: R frozen coordinates of text, 0 for special numbers, and N of ids."""

    def __init__(self, text: np.ndarray, id_dimensions: int, id_start: str):
        super().__init__()
        self.register_buffer("text", functional.pad(torch.tensor(text, dtype=torch.float32), (0, 0, 0, SPECIAL)))
        self.ids = nn.Embedding(len(self.text), id_dimensions, padding_idx=len(text) + 1)
        if id_start == "zeros":
            nn.init.zeros_(self.ids.weight)

    @property
    def weight(self) -> torch.Tensor:
        return torch.cat([self.text, self.ids.weight], dim=1)

    def forward(self, number: torch.Tensor) -> torch.Tensor:
        return functional.embedding(number, self.weight)


class AlphaFuse(Causal):
    def __init__(self, sequences: Sequences, settings: dict[str, Any], context: Context, names: np.ndarray):
        super().__init__("ce")
        text, _ = whiten(names, settings["text_dimensions"])
        dimensions = text.shape[1] + settings["id_dimensions"]
        if not text.shape[1] and (not settings["id_dimensions"] or settings["id_start"] == "zeros"):
            raise UserError("alphafuse: without coordinates of text (text_dimensions 0, or names that are all alike) "
                            "ids must have some and start from `normal`: a zero vector has no cosine")
        self.temperature, self.windows = settings["temperature"], settings["windows_per_epoch"]
        self.windows_per_validation = self.windows
        self.embedder = Embedder(sequences.size, sequences.contexts, sequences.length, dimensions, context)
        self.embedder.behaviors = Fused(text, settings["id_dimensions"], settings["id_start"])
        self.encoder = Encoder(dimensions, _BLOCKS, _HEADS, settings["dropout"])

    def forward(self, batch: Batch) -> torch.Tensor:
        """Cosines over the temperature."""
        hidden = self.encoder(self.embedder(batch), batch.padding)
        vectors = self.embedder.behaviors.weight[: self.embedder.size]
        return functional.normalize(hidden, dim=-1) @ functional.normalize(vectors, dim=-1).T / self.temperature

    def epoch(self, sequences: Sequences, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        return sequences.whole_windows(batch_size, rng, self.windows)

    def loss(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        return cross_entropy(self(batch)[:, -1], batch.label[:, -1])


def fit_alphafuse(task: Task, model: Path) -> Fitted[AlphaFuse]:
    """AlphaFuse on the task's training windows and the names' vectors, tuned within its budget."""
    names = load_names(task, model)
    fitted = tuned(task, "alphafuse", Settings, f"AlphaFuse ({task.context})",
                   lambda settings: AlphaFuse(task.sequences, settings, task.context, names.vectors))
    kept = fitted.model.embedder.behaviors.text.shape[1]
    return replace(fitted, facts={"names": {**names.facts(), "kept_dimensions": kept}})


STAGE = sequential("alphafuse", __doc__, fit_alphafuse, reads=MODEL, histories=True)

if __name__ == "__main__":
    STAGE.run()
