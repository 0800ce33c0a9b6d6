"""What baselines put into soft tokens, and the same prompts without them."""

from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from torch import nn


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
