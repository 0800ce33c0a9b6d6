"""Which reader a model gets."""

import torch

from stages.model.llama import LlamaDecoder, UnsupportedModel
from stages.model.reader import PlainReader, Reader


def make_reader(model: torch.nn.Module, few_tokens: bool = False) -> Reader:
    """The fastest exact reader of a causal language model, which may have adapters or be wrapped for several devices.

    `few_tokens`: spend memory on reading a few dozen tokens at once faster.
    """
    if hasattr(model, "module"):
        return PlainReader(model)  # gradients meet in the wrapper's forward
    try:
        return LlamaDecoder(model, few_tokens)
    except UnsupportedModel:
        return PlainReader(model)
