"""How a model reads tokens behind others that it has read before: the interface, and transformers' own way."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from stages.model.kv_cache import KeysAndValues, KVCache


@dataclass(frozen=True)
class Segment:
    """Some of the tokens that are read at once, behind a cache of their own.

    `mask` (tokens, M), added to the scores, says what they see of the last M - tokens tokens of `cache` and of each
    other; everything further in front is seen by all. None: every token sees all before it.
    """

    cache: KVCache
    tokens: int
    mask: torch.Tensor | None = None


class Reader(ABC):
    """Reads with the gradients and the precision that are in force; active adapters take part."""

    @abstractmethod
    def read(
        self, ids: torch.Tensor, positions: torch.Tensor, past: KeysAndValues | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, KeysAndValues]:
        """Normed last hidden states (B, S, H) of tokens `ids` (B, S), and each layer's keys and values (B, kv, S, D).

        Args:
            positions: (B or 1, S).
            past: keys and values (B or 1, kv, P, D) of each layer: what was read before.
            mask: (B or 1, S, P + S), added to the scores, at least causal; None: every token sees all before it.
        """

    def extend(self, ids: torch.Tensor, positions: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
        """Read tokens `ids` (S,), segment after segment; each segment's cache then holds its tokens too.

        Returns:
            Normed last hidden states (S, H).
        """
        states, read, start = [], [], 0
        for segment in segments:
            cache, mask, stop = segment.cache, segment.mask, start + segment.tokens
            if mask is not None:
                visible = mask.new_zeros(segment.tokens, cache.size + segment.tokens - mask.shape[1])
                mask = torch.cat([visible, mask], dim=1)[None]
            hidden, new = self.read(ids[None, start:stop], positions[None, start:stop], cache.past(), mask)
            read.append((cache, new))
            states.append(hidden[0])
            start = stop
        for cache, new in read:  # all or none
            cache.append(new)
        return torch.cat(states)


class PlainReader(Reader):
    """Any causal language model on any device, through the model's own forward.

    The whole forward, and not the decoder alone: wrappers for several devices hook into it. The head is asked for one
    position, which costs next to nothing; with 49,152 tokens in the vocabulary all would be a quarter of the work.
    """

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.decoder = getattr(model, "module", model).get_decoder()

    def read(self, ids, positions, past=None, mask=None):
        before = past[0][0].shape[2] if past else 0
        cache = DynamicCache(config=self.decoder.config)
        for number, (keys, values) in enumerate(past or []):
            cache.update(*(part.expand(len(ids), -1, -1, -1) for part in (keys, values)), number)
        states: list[Any] = []
        hook = self.decoder.register_forward_hook(lambda module, args, output: states.append(output.last_hidden_state))
        try:
            self.model(
                input_ids=ids, position_ids=positions.expand(len(ids), -1), past_key_values=cache, use_cache=True,
                attention_mask=None if mask is None else mask.expand(len(ids), -1, -1)[:, None], logits_to_keep=1,
            )
        finally:
            hook.remove()
        return states[0], [(layer.keys[:, :, before:], layer.values[:, :, before:]) for layer in cache.layers]
