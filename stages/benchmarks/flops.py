"""Floating-point operations that a result needs, by one convention, for shares of a machine's peak.

    a token forward     2 x weights of the decoder's linear layers
    attention           4 x width x keys attended, a layer and token; a causal half counts as half
    the head            2 x hidden x vocabulary, at the positions where it is asked and nowhere else
    LoRA training       forward, and the gradient of the activations, which costs as much again: frozen weights have no
                        gradient of their own, and what feeds the first layer's q, k and v has nobody to pass one to;
                        the adapters' own products and gradients besides; attention backward is twice its forward

Only what the *result* needs counts: padding is nothing, what several sequences begin with is read once in an optimizer
step (or once in all, where no weight changes in between), and what stands behind the last label is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

_FED_BY_EMBEDDINGS = ("q_proj", "k_proj", "v_proj", "qkv_proj")


@dataclass(frozen=True)
class Shape:
    """What of a model costs operations."""

    layers: int  # of the decoder
    width: int  # heads times their dimension
    linear: int  # weights of the decoder's linear layers
    linear_first: int  # those of the first layer's q, k and v
    adapter: int  # weights of the adapters at these layers
    adapter_first: int  # weights of the adapters' first halves (A) at the first layer's q, k and v
    head: int  # weights of the language-model head

    @classmethod
    def of(cls, model: torch.nn.Module, rank: int = 0) -> "Shape":
        """Of a plain causal language model; `rank` is that of the adapters it is trained with."""
        config, layers = model.config, model.get_decoder().layers
        linears = [part for part in layers.modules() if isinstance(part, torch.nn.Linear)]
        first = [part for name, part in layers[0].named_modules() if name.rpartition(".")[2] in _FED_BY_EMBEDDINGS]
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            layers=len(layers), width=config.num_attention_heads * head_dim,
            linear=sum(part.weight.numel() for part in linears),
            linear_first=sum(part.weight.numel() for part in first),
            adapter=sum(rank * (part.in_features + part.out_features) for part in linears),
            adapter_first=sum(rank * part.in_features for part in first),
            head=config.hidden_size * config.vocab_size,
        )


class Flops(NamedTuple):
    """Operations by where they are spent."""

    linear: float
    attention: float
    head: float


def training(shape: Shape, prefix: int, steps: int, read: Sequence[int], labelled: int) -> Flops:
    """Of optimizer `steps` on sequences that all begin with the same `prefix` tokens, which each step reads once.

    `read` are the tokens of each sequence before its last label, the prefix included; each of the labels asks the head.
    """
    tokens = steps * prefix + sum(count - prefix for count in read)
    keys = steps * _attended(prefix, 0) + sum(_attended(count - prefix, prefix) for count in read)
    weights = 2 * shape.linear - shape.linear_first + 3 * shape.adapter - shape.adapter_first
    return Flops(
        linear=2.0 * tokens * weights, attention=3 * 4.0 * shape.width * shape.layers * keys,
        head=2 * 2.0 * labelled * shape.head,
    )


def scoring(shape: Shape, prefix: int, lengths: Sequence[int], answers: Sequence[Sequence[int]]) -> Flops:
    """Of scoring all answers after each prompt, adapters merged.

    All prompts begin with the same `prefix` tokens, which `lengths` include. Answers share what they begin with; the
    last token of one is predicted and not read.
    """
    nodes = {tuple(answer[:end]) for answer in answers for end in range(1, len(answer))}
    tokens = prefix + sum(length - prefix + len(nodes) for length in lengths)
    keys = _attended(prefix, 0) + sum(
        _attended(length - prefix, prefix) + len(nodes) * length + sum(map(len, nodes)) for length in lengths
    )
    return Flops(
        linear=2.0 * tokens * shape.linear, attention=4.0 * shape.width * shape.layers * keys,
        head=2.0 * len(lengths) * (len(nodes) + 1) * shape.head,
    )


def _attended(tokens: int, before: int) -> float:
    """Keys that `tokens` tokens attend to behind `before` others, each to itself as well."""
    return tokens * before + tokens * (tokens + 1) / 2
