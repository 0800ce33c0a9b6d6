"""Events become vectors, the same way in every baseline trained from nothing, with contexts or without."""

import torch
from torch import nn

from stages.baselines.fitting.sequences import SPECIAL, Batch
from stages.baselines.fitting.settings import Context


class Embedder(nn.Module):
    """Vector of an event: its behaviour's, plus what the context mode adds, plus its place in the sequence.

    `id` has the behaviours alone, as the baselines were published. `history` adds each event's own weekday, hour and
    place. `next` adds those of the event after it as well, which the language model's prompt has too; they are added
    to the event before, so that a causal body needs no further position for them. Weights start small, as BERT's do.

    Attributes:
        behaviors: vectors `(V + 3, D)` of the behaviours and the special numbers.
    """

    def __init__(
        self, size: int, contexts: tuple[int, int, int], length: int | None, dimensions: int, context: Context
    ):
        """
        Args:
            length: of the longest sequence; None where the body adds positions of its own.
        """
        super().__init__()
        self.size, self.context = size, context
        self.behaviors = nn.Embedding(size + SPECIAL, dimensions, padding_idx=size + 1)
        self.position = nn.Embedding(length, dimensions) if length is not None else None
        self.now = _tables(contexts, dimensions) if context != "id" else None
        self.later = _tables(contexts, dimensions) if context == "next" else None
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if module.padding_idx is not None:
                    nn.init.zeros_(module.weight[module.padding_idx])

    def forward(self, batch: Batch) -> torch.Tensor:
        """`(B, T, D)`; zero where there is padding."""
        return self.with_contexts(self.behaviors(batch.behavior), batch)

    def with_contexts(self, vectors: torch.Tensor, batch: Batch) -> torch.Tensor:
        """`vectors` `(B, T, D)` with positions, times and places added, as the mode has them; zero at padding."""
        if self.position is not None:
            vectors = vectors + self.position.weight[-vectors.shape[1] :]
        if self.now is not None:
            vectors = vectors + _sum(self.now, batch.weekday, batch.hour, batch.place)
        if self.later is not None:
            vectors = vectors + _sum(self.later, batch.next_weekday, batch.next_hour, batch.next_place)
        return vectors * ~batch.padding[..., None]

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Inner products `(…, V)` with the behaviours' vectors."""
        return hidden @ self.behaviors.weight[: self.size].T


def _tables(contexts: tuple[int, int, int], dimensions: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Embedding(count, dimensions) for count in contexts)


def _sum(tables: nn.ModuleList, *numbers: torch.Tensor) -> torch.Tensor:
    return sum(table(number) for table, number in zip(tables, numbers, strict=True))
