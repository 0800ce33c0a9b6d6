"""The last hidden states of a model in training, so that the head is applied only where somebody asks for it."""

from typing import Any

import torch


def hidden_states(model: torch.nn.Module, **inputs: Any) -> torch.Tensor:
    """Normed last hidden states (B, S, H), through the model's own forward.

    The whole forward, and not the decoder alone: wrappers for several devices hook into it. The head is asked for one
    position, which costs next to nothing; with 49,152 tokens in the vocabulary it would be a quarter of the work.
    """
    return model(**inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1).hidden_states[-1]
