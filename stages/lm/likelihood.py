"""p(y|x) over all candidates, exactly, with each prompt read once: one function for scoring, evaluation, prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel

from stages.common.console import track
from stages.lm.tree import AnswerTree, pack, step_log_probs

# Tokens read at once, padding included: enough to keep matrix products busy, little enough for 8 GB.
_TOKENS_A_BATCH = 4096


@dataclass(frozen=True)
class Scores:
    """`log_p` (N, V) float32: log-softmax over the candidates of their sequence log-likelihood; `embedding` (N, H)
    float32: the last normed hidden state at each prompt's last token, of unit length."""

    log_p: np.ndarray
    embedding: np.ndarray


@torch.inference_mode()
def score(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], title: str = "scoring"
) -> Scores:
    """Weigh every answer after every prompt: s(y) = sum of log P(token | prompt, earlier tokens), terminator included.

    What all prompts begin with is read once and kept; the answers share one prefix tree behind each prompt.

    Args:
        model: a causal language model with adapters merged, or none.
        prompts: N token lists, none empty.
        answers: V token lists, each ending in a terminator.
        title: what the progress bar says.
    """
    model.eval()
    tree = AnswerTree.of(answers)
    head, body, device = model.get_output_embeddings(), model.get_decoder(), model.device
    shared = common_prefix(prompts)
    past = read_prefix(body, torch.tensor(prompts[0][:shared], device=device)) if shared else None
    log_p = np.empty((len(prompts), len(answers)), dtype=np.float32)
    embedding = np.empty((len(prompts), model.config.hidden_size), dtype=np.float32)
    longest_first = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    with track(title, len(prompts)) as progress:
        for batch in _batches(longest_first, [len(p) - shared + len(tree.tokens) for p in prompts]):
            packed = pack([prompts[i][shared:] for i in batch], [tree] * len(batch), shared, model.dtype)
            hidden = body(
                input_ids=packed.input_ids.to(device),
                position_ids=packed.positions.to(device),
                attention_mask=packed.mask.to(device),
                past_key_values=expand(past, len(batch), model.config) if past else None,
                use_cache=past is not None,
            ).last_hidden_state
            for at, (i, last) in enumerate(zip(batch, packed.last.tolist(), strict=True)):
                sums = step_log_probs(hidden[at], last, tree, head)
                log_p[i] = sums.log_softmax(dim=0).cpu().numpy()
                embedding[i] = torch.nn.functional.normalize(hidden[at, last].float(), dim=0).cpu().numpy()
            progress.advance(len(batch))
    return Scores(log_p, embedding)


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with; at least one token of each prompt is left out of it."""
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), limit)
    return min(same, limit)


KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]


def read_prefix(model: torch.nn.Module, tokens: torch.Tensor) -> KeysAndValues:
    """Keys and values (1, heads, P, D) of each layer after reading `tokens` (P,); gradients flow through them."""
    cache = model(input_ids=tokens[None], use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def expand(past: KeysAndValues, batch: int, config: PretrainedConfig) -> DynamicCache:
    """A cache in which each of `batch` sequences has read the prefix."""
    cache = DynamicCache(config=config)
    for number, (keys, values) in enumerate(past):
        cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), number)
    return cache


def _batches(order: list[int], sizes: list[int]) -> list[list[int]]:
    """Cut `order` (longest first) where the padded tokens of a batch would exceed the limit."""
    batches: list[list[int]] = []
    for i in order:
        if not batches or (len(batches[-1]) + 1) * sizes[batches[-1][0]] > _TOKENS_A_BATCH:
            batches.append([])
        batches[-1].append(i)
    return batches
