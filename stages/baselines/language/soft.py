"""Soft tokens: ids behind a tokenizer's vocabulary that stand for vectors, and prompts in which behaviours have them.

A model whose vocabulary has n tokens reads id n + k as soft vector k; its head stays as it is, so that no soft id is
ever predicted. Prompts stay lists of ids, and whatever reads, scores or trains on ids does so with soft tokens too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Source = Callable[[torch.Tensor], torch.Tensor]
"""Soft vectors `(K, H)` of numbers `(K,)`, ascending and all different; gradients may flow through."""


class SoftEmbedding(nn.Module):
    """A model's input embedding, and behind its `size` tokens the soft vectors of `source`.

    While there is no source, a soft token is read as the ordinary token `placeholder`: the same prompt without vectors.
    The source is a function and no part of the model: what trains in it is not among the model's parameters.
    """

    source: Source | None = None

    def __init__(self, words: nn.Embedding, placeholder: int):
        super().__init__()
        self.words, self.placeholder = words, placeholder

    @property
    def size(self) -> int:
        """n: the number of ordinary tokens, and the id of soft vector 0."""
        return self.words.num_embeddings

    @property
    def weight(self) -> nn.Parameter:
        return self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors `(…, H)` of tokens `ids` `(…)`."""
        soft = ids >= self.size
        vectors = self.words(ids.masked_fill(soft, self.placeholder))
        if self.source is None or not soft.any():
            return vectors
        numbers, which = (ids[soft] - self.size).unique(return_inverse=True)
        found = self.source(numbers)
        if found.shape != (len(numbers), vectors.shape[-1]):
            raise ValueError(f"{len(numbers)} soft vectors of {vectors.shape[-1]} dimensions expected, "
                             f"not {tuple(found.shape)}")
        return vectors.masked_scatter(soft[..., None], found.to(vectors.dtype)[which])

    def mean_norm(self) -> float:
        """Mean length of the ordinary tokens' vectors."""
        return float(self.weight.detach().float().norm(dim=-1).mean())


def attach(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SoftEmbedding:
    """Have `model`, with adapters or without, read soft ids too; all its weights stay where they are."""
    words = model.get_input_embeddings()
    if isinstance(words, SoftEmbedding):
        return words
    embedding = SoftEmbedding(words, placeholder(tokenizer))
    model.set_input_embeddings(embedding)
    return embedding


def placeholder(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token that no text holds: a reserved one where the vocabulary has any, else the unknown token, else padding."""
    special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    reserved = [i for i, content in special.items() if "reserved" in content]
    if reserved:
        return min(reserved)
    return tokenizer.pad_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id


class Projector(nn.Module):
    """A net into a language model's embeddings, times one constant: at the start its vectors are as long as a token's.

    A net's own initial vectors are far shorter or longer than what the model was made to read.
    """

    def __init__(self, net: nn.Module, features: torch.Tensor, length: float):
        """`net` makes `(…, H)` of `(…, D)`, at the start of mean length `length` on the `features` `(V, D)` of all."""
        super().__init__()
        self.net = net
        with torch.no_grad():
            mean = net(features).norm(dim=-1).mean()
        self.register_buffer("scale", length / mean.clamp_min(torch.finfo(mean.dtype).tiny))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.net(features) * self.scale


def words(samples: Dataset, size: int) -> Dataset:
    """Samples as `sequences.labelled` makes them, less the tokens from `size` on, none of which has a label."""
    def apart(sample: Mapping[str, list[int]]) -> dict[str, Any]:
        pairs = zip(sample["input_ids"], sample["labels"], strict=True)
        ids, labels = zip(*((token, label) for token, label in pairs if token < size), strict=True)
        return {"input_ids": ids, "labels": labels, "length": len(ids)}

    return Dataset.from_list([apart(sample) for sample in samples])
