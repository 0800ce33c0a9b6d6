"""LLM-ESR (Liu et al. 2024): behaviours seen by their names and by their ids, and taught by users who act alike.

Two views of a history: the names' frozen vectors through two linear layers, and ids that start from the names'
principal components and are trained. Each view is then asked by the other (cross-attention), one SASRec reads both, and
a behaviour's score is the inner product of both states with both of its vectors. The objective is the published one: at
every position the label against one negative, and `alpha` times the squared distance of the sequence's last states from
the mean of those of `similar` windows of other users, through which no gradient runs.

What differs, and why. The official code hides nothing of the future, in the blocks nor in the cross-attentions, while
it learns at all positions, so that the answers stand in its input; here nothing reads ahead. V behaviours have V − 1
components at most, the other coordinates of ids start from N(0, .02). Similar are training windows, not users: test
users were never seen, and a user's history here is long. They are those of largest cosine of the mean of the history's
centred name vectors, out of `pool` windows drawn once, instead of a prompt that lists the history, embedded. Names are
centred and brought to a mean squared length of 1, which the linear layers could undo; negatives are those of
`objectives.binary_cross_entropy`. Blocks, positions, contexts and their scale are `SASRec`'s, dropout follows the
cross-attention instead of going before it, and none is in the states of similar windows. Published patience is 20
passes; here it is the budget's validations, and a small log is read more often between two than the budget says
(`windows_per_validation`). The context modes `history` and `next` are not published.

Checks (tests/baselines/test_llmesr.py): with neither text, cross-attention nor alpha it is SASRec; no state depends on
what comes later; no similar window is of the same user.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from stages.baselines.fitting.sequences import SPECIAL, Batch, Sequences
from stages.baselines.fitting.settings import Context, Transformer, Tried
from stages.baselines.fitting.stage import MODEL
from stages.baselines.fitting.task import Task
from stages.baselines.language.names import load_names, principal
from stages.baselines.sequential.embedder import Embedder
from stages.baselines.sequential.objectives import binary_cross_entropy
from stages.baselines.sequential.sasrec import Encoder, seen
from stages.baselines.sequential.stage import sequential, tuned
from stages.baselines.sequential.training import Fitted, Recommender
from stages.common.device import device
from stages.common.errors import UserError
from stages.common.params import Positive

_CROSS_HEADS = 2
_WINDOWS_AT_ONCE = 4096


class Settings(Transformer):
    alpha: Tried[Annotated[float, Field(ge=0)]]
    text: bool
    """Whether there is a view of names."""
    cross_attention: bool
    similar: Positive
    pool: Positive
    windows_per_validation: Positive


class SimilarWindows:
    """Finds training windows of other users whose histories mean much the same, among `rows` `(P,)`."""

    def __init__(self, sequences: Sequences, names: np.ndarray, pool: int, seed: int):
        """From the names' vectors `(V, H)` and at most `pool` windows, drawn by `seed`."""
        self.sequences = sequences
        coordinates, _ = principal(names)  # as many as are needed for the same cosines, which is fewer than H
        self._names = functional.pad(torch.tensor(coordinates, dtype=torch.float32), (0, 0, 0, SPECIAL)).to(device())
        self.rows = np.sort(np.random.default_rng(seed).permutation(sequences.train_rows())[:pool])
        batches = [sequences.windows(self.rows[start : start + _WINDOWS_AT_ONCE]).to(device())
                   for start in range(0, len(self.rows), _WINDOWS_AT_ONCE)]
        self._meanings = torch.cat([self._meaning(batch) for batch in batches])
        self._users = torch.cat([batch.user for batch in batches])

    def of(self, batch: Batch, count: int) -> tuple[np.ndarray, torch.Tensor]:
        """Rows `(B, N)` of the windows most like each sequence, and `(B, N)` whether there is one."""
        likeness = self._meaning(batch) @ self._meanings.T
        likeness.masked_fill_(batch.user[:, None] == self._users, float("-inf"))
        likeness, found = likeness.topk(min(count, len(self.rows)), dim=1)
        return self.rows[found.cpu().numpy()], likeness.isfinite()

    def _meaning(self, batch: Batch) -> torch.Tensor:
        """Unit vectors `(B, R)` along the sum of a history's names; what has no name adds nothing."""
        return functional.normalize(self._names[batch.behavior].sum(dim=1), dim=-1)


class CrossAttention(nn.Module):
    """One view's vectors, gathered by the other view's queries; nothing of the view that asks is kept."""

    def __init__(self, dimensions: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dimensions, dimensions, bias=False) for _ in range(3))
        self.result = nn.Linear(dimensions, dimensions)

    def forward(self, asking: torch.Tensor, asked: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """`(B, T, D)` from two views of that shape and `(B, T, T)`, True where the second is visible from the first."""
        query, key, value = (
            layer(view).unflatten(-1, (_CROSS_HEADS, -1)).transpose(1, 2)
            for layer, view in ((self.query, asking), (self.key, asked), (self.value, asked))
        )
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible[:, None])
        return self.result(found.transpose(1, 2).flatten(-2))


class LLMESR(Recommender):
    def __init__(
        self, sequences: Sequences, settings: dict[str, Any], context: Context, names: np.ndarray,
        similar: SimilarWindows | None,
    ):
        """`names` are vectors `(V, H)`; `similar` finds windows to learn from, and may be None where `alpha` is 0."""
        super().__init__()
        dimensions = settings["dimensions"]
        if settings["cross_attention"] and (not settings["text"] or dimensions % _CROSS_HEADS):
            raise UserError(f"llmesr: cross_attention needs two views (text: true) and dimensions that {_CROSS_HEADS} "
                            f"heads can share, not {dimensions}")
        self.alpha, self.count, self.similar = settings["alpha"], settings["similar"], similar
        self.windows_per_validation = settings["windows_per_validation"]
        self.embedder = Embedder(sequences.size, sequences.contexts, sequences.length, dimensions, context)
        self.encoder = Encoder(dimensions, settings["blocks"], settings["heads"], settings["dropout"])
        vectors = _scaled(names)
        start = torch.tensor(principal(vectors)[0][:, :dimensions], dtype=torch.float32)
        with torch.no_grad():
            self.embedder.behaviors.weight[: len(start), : start.shape[1]] = start
        self.adapter = None
        if settings["text"]:
            self.adapter = _adapter(vectors.shape[1], dimensions)
            text = torch.tensor(vectors, dtype=torch.float32)
            self.register_buffer("text", functional.pad(text, (0, 0, 0, SPECIAL)))
        self.ids_asked, self.text_asked = (
            CrossAttention(dimensions) if settings["cross_attention"] else None for _ in range(2)
        )

    def states(self, batch: Batch) -> torch.Tensor:
        """`(B, T, D)` of each view, side by side."""
        views = [self.embedder(batch)]
        if self.adapter is not None:
            views.append(self.embedder.with_contexts(self.adapter(self.text)[batch.behavior], batch))
        if self.ids_asked is not None and self.text_asked is not None:
            ids, named = views
            visible = seen(batch.padding)
            views = [self.ids_asked(named, ids, visible), self.text_asked(ids, named, visible)]
        return torch.cat([self.encoder(view, batch.padding) for view in views], dim=-1)

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Inner products `(…, V)` of states with each behaviour's vectors, all views together."""
        vectors = [self.embedder.behaviors.weight[: self.embedder.size]]
        if self.adapter is not None:
            vectors.append(self.adapter(self.text[: self.embedder.size]))
        return states @ torch.cat(vectors, dim=-1).T

    def loss(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        states = self.states(batch)
        loss = binary_cross_entropy(self.scores(states), batch.label, generator)
        if not self.alpha or self.similar is None:
            return loss
        return loss + self.alpha * self._distance(self.similar, states[:, -1], batch)

    def log_p(self, batch: Batch) -> torch.Tensor:
        return self.scores(self.states(batch)[:, -1]).log_softmax(dim=-1)

    def _distance(self, similar: SimilarWindows, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Mean squared difference of last states `(B, D)` and the mean of similar windows'; 0 if there are none."""
        rows, there = similar.of(batch, self.count)
        trains = self.training
        with torch.no_grad():
            self.eval()  # what is learned from needs no dropout, and is read in half the time without
            windows = similar.sequences.windows(rows.flatten()).to(states.device)
            others = self.states(windows)[:, -1].unflatten(0, rows.shape) * there[..., None]
            taught = others.sum(dim=1) / there.sum(dim=1, keepdim=True).clamp(min=1)
            self.train(trains)
        return functional.mse_loss(states * there.any(dim=1, keepdim=True), taught)


def _scaled(names: np.ndarray) -> np.ndarray:
    """Centred vectors `(V, H)` whose squared lengths are 1 in the mean; zeros where all names are alike."""
    centred = names.astype(np.float64) - names.mean(axis=0, dtype=np.float64)
    return centred / max(np.sqrt((centred**2).sum(axis=1).mean()), 1e-6)


def _adapter(width: int, dimensions: int) -> nn.Sequential:
    """Two linear layers without anything between, as published, from Xavier's normal weights."""
    layers = nn.Sequential(nn.Linear(width, max(1, width // 2)), nn.Linear(max(1, width // 2), dimensions))
    for layer in layers:
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layers


def fit_llmesr(task: Task, model: Path) -> Fitted[LLMESR]:
    """LLM-ESR on the task's training windows and the names' vectors, tuned within its budget."""
    names, (_, values) = load_names(task, model), task.settings("llmesr", Settings)
    similar = SimilarWindows(task.sequences, names.vectors, values.pool, task.seed) if any(values.alpha) else None
    fitted = tuned(task, "llmesr", Settings, f"LLM-ESR ({task.context})",
                   lambda settings: LLMESR(task.sequences, settings, task.context, names.vectors, similar))
    return replace(fitted, facts={"names": names.facts()})


STAGE = sequential("llmesr", __doc__, fit_llmesr, reads=MODEL)

if __name__ == "__main__":
    STAGE.run()
