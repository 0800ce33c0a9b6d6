"""How a model reads tokens behind tokens that it has read before: the one interface, and transformers' own way."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from stages.model.kv_cache import KeysAndValues, Store


@dataclass(frozen=True)
class Run:
    """Some of the tokens that are read at once, and what stands before them.

    `mask` (tokens, M), added to the scores, says what they see of the last M - tokens tokens of `store` and of each other;
    all that stands further in front is seen by all. None: every token sees all before it.
    """

    store: Store
    tokens: int
    mask: torch.Tensor | None = None


class Reader(ABC):
    """Reads with the gradients and under the precision that are in force; adapters that are active take part."""

    @abstractmethod
    def read(
        self, ids: torch.Tensor, positions: torch.Tensor, past: KeysAndValues | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, KeysAndValues]:
        """Normed last hidden states (B, S, H) of tokens `ids` (B, S), and each layer's keys and values (B, kv, S, D).

        Args:
            positions: (B or 1, S).
            past: keys and values (B or 1, kv, P, D) of each layer: what was read before.
            mask: (B or 1, S, P + S), added to the scores, no less than causal; None where every token sees all before it.
        """

    def extend(self, ids: torch.Tensor, positions: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        """Read tokens `ids` (S,), run after run, each behind its own store, which then holds them too.

        Returns:
            Normed last hidden states (S, H).
        """
        states, read, start = [], [], 0
        for run in runs:
            stop = start + run.tokens
            mask = run.mask
            if mask is not None:
                seen = mask.new_zeros(run.tokens, run.store.size + run.tokens - mask.shape[1])
                mask = torch.cat([seen, mask], dim=1)[None]
            hidden, own = self.read(ids[None, start:stop], positions[None, start:stop], run.store.past(), mask)
            read.append((run.store, own))
            states.append(hidden[0])
            start = stop
        for store, own in read:  # all or none
            store.append(own)
        return torch.cat(states)


class PlainReader(Reader):
    """Any causal language model on any device, through the model's own forward.

    The whole forward, and not the decoder alone: wrappers for several devices hook into it. The head is asked for one
    position, which costs next to nothing; with 49,152 tokens in the vocabulary it would be a quarter of the work.
    """

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.decoder = getattr(model, "module", model).get_decoder()

    def read(self, ids, positions, past=None, mask=None):
        old = past[0][0].shape[2] if past else 0
        cache = DynamicCache(config=self.decoder.config)
        for number, (keys, values) in enumerate(past or []):
            cache.update(*(part.expand(len(ids), -1, -1, -1) for part in (keys, values)), number)
        seen: list[Any] = []
        hook = self.decoder.register_forward_hook(lambda module, args, output: seen.append(output.last_hidden_state))
        try:
            self.model(
                input_ids=ids, position_ids=positions.expand(len(ids), -1), past_key_values=cache, use_cache=True,
                attention_mask=None if mask is None else mask.expand(len(ids), -1, -1)[:, None], logits_to_keep=1,
            )
        finally:
            hook.remove()
        return seen[0], [(layer.keys[:, :, old:], layer.values[:, :, old:]) for layer in cache.layers]
