"""Soft tokens: ids behind a tokenizer's vocabulary that stand for vectors.

A model whose vocabulary has n tokens reads id n + k, or one further behind, as soft vector k; its head stays as it is,
so that no soft id is ever predicted. Prompts stay lists of ids, and whatever reads, scores or trains on ids does so
with soft tokens too.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Source = Callable[[torch.Tensor], torch.Tensor]
"""Soft vectors `(K, H)` of numbers `(K,)`, ascending and all different; gradients may flow through."""


class SoftEmbedding(nn.Module):
    """A model's input embedding, and from the id `first` on the soft vectors of `source`.

    While there is no source, a soft token is read as the ordinary token `placeholder`: the same prompt without vectors.
    The source is a function and no part of the model: what trains in it is not among the model's parameters.
    """

    source: Source | None = None

    def __init__(self, words: nn.Embedding, placeholder: int, first: int):
        """`first`: the id of soft vector 0, no less than the number of ordinary tokens."""
        super().__init__()
        self.words, self.placeholder, self.first = words, placeholder, first

    @property
    def weight(self) -> nn.Parameter:
        return self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors `(…, H)` of tokens `ids` `(…)`."""
        soft = ids >= self.first
        vectors = self.words(ids.masked_fill(soft, self.placeholder))
        if self.source is None or not soft.any():
            return vectors
        numbers, which = (ids[soft] - self.first).unique(return_inverse=True)
        found = self.source(numbers)
        if found.shape != (len(numbers), vectors.shape[-1]):
            raise ValueError(f"{len(numbers)} soft vectors of {vectors.shape[-1]} dimensions expected, "
                             f"not {tuple(found.shape)}")
        return vectors.masked_scatter(soft[..., None], found.to(vectors.dtype)[which])

    def mean_norm(self) -> float:
        """Mean length of the ordinary tokens' vectors."""
        return float(self.weight.detach().float().norm(dim=-1).mean())


def attach(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, first: int | None = None) -> SoftEmbedding:
    """Have `model`, with adapters or without, read soft ids too; all its weights stay where they are.

    `first` is the id of soft vector 0; by default the one behind the last ordinary token.
    """
    words = model.get_input_embeddings()
    if isinstance(words, SoftEmbedding):
        return words
    embedding = SoftEmbedding(words, placeholder(tokenizer), words.num_embeddings if first is None else first)
    model.set_input_embeddings(embedding)
    return embedding


def placeholder(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token that no text holds: a reserved one where the vocabulary has any, else the unknown token, else padding."""
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    reserved = [i for i, content in special.items() if "reserved" in content]
    if reserved:
        return min(reserved)
    return tokenizer.pad_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
