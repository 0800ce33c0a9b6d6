"""Attention of new tokens to what was read before and to each other, as plain matrix products.

The usual fused kernels spare memory; on a CPU they run at a tenth of the speed of its matrix products. With the few
hundred keys of a behaviour prompt all weights fit the cache, so here they are made block by block of queries and kept
for the backward pass, and keys that a block cannot see are not multiplied at all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

_QUERIES = 192  # in a block: larger ones multiply more keys in vain, smaller ones keep the cores less busy


class Attend(torch.autograd.Function):
    """Rotary grouped-query causal attention of S new tokens behind P past ones.

    Args of `apply`: `qkv` (B, S, (heads + 2 kv) D); `cos`, `sin` (B or 1, S, D); `past_keys`, `past_values`
    (B or 1, kv, P, D), or None; `mask` (B or 1, S, P + S) additive, None for plain causal attention (a mask must be at
    least causal); `heads`; `kv`.

    Returns the mix (B, S, heads D) and the new tokens' rotated keys and values (B, kv, S, D).
    """

    @staticmethod
    def forward(ctx: Any, qkv, cos, sin, past_keys, past_values, mask, heads: int, kv: int):
        ctx.set_materialize_grads(False)
        batch, size, width = qkv.shape
        depth, groups = width // (heads + 2 * kv), heads // kv
        past = 0 if past_keys is None else past_keys.shape[2]
        split = qkv.view(batch, size, heads + 2 * kv, depth).transpose(1, 2)
        cos, sin = cos[:, None], sin[:, None]
        queries = _rotate(split[:, :heads], cos, sin, qkv.new_empty(batch, heads, size, depth))
        keys, values = (qkv.new_empty(batch, kv, past + size, depth) for _ in range(2))
        if past:
            keys[:, :, :past], values[:, :, :past] = past_keys, past_values
        _rotate(split[:, heads : heads + kv], cos, sin, keys[:, :, past:])
        values[:, :, past:] = split[:, heads + kv :]
        queries = queries.view(batch, kv, groups, size, depth)
        mixed = qkv.new_empty(batch, size, kv, groups, depth).permute(0, 2, 3, 1, 4)
        flat_keys, flat_values = keys.flatten(0, 1), values.flatten(0, 1)
        weights = []
        for start, stop in _blocks(size):
            seen, shape = past + stop, (batch, kv, groups, stop - start)
            block = queries[:, :, :, start:stop].reshape(batch * kv, -1, depth)
            scores = _scaled_bmm(block, flat_keys[:, :seen].transpose(1, 2), depth**-0.5)
            if mask is None:
                scores.view(*shape, seen)[..., past + start :].add_(_causal_mask(stop - start, scores))
            else:
                scores.view(*shape, seen).add_(mask[:, None, None, start:stop, :seen])
            weights.append(torch.softmax(scores, dim=-1))
            mixed[:, :, :, start:stop] = torch.bmm(weights[-1], flat_values[:, :seen]).view(*shape, depth)
        ctx.shape = (heads, kv, past, 0 if past_keys is None else past_keys.shape[0])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(queries, keys, values, cos, sin, *weights)
        return mixed.permute(0, 3, 1, 2, 4).reshape(batch, size, heads * depth), keys[:, :, past:], values[:, :, past:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad, grad_new_keys, grad_new_values):
        queries, keys, values, cos, sin, *weights = ctx.saved_tensors
        heads, kv, past, past_batch = ctx.shape
        batch, _, groups, size, depth = queries.shape
        if grad is None:  # nobody asked for the mix, only for the keys and values
            grad = queries.new_zeros(batch, size, heads * depth)
        grad = grad.reshape(batch, size, kv, groups, depth).permute(0, 2, 3, 1, 4)
        grad_queries = torch.empty_like(queries)
        # blocks are added up: in bf16 that would round each time
        grad_keys, grad_values = (torch.zeros_like(keys, dtype=torch.float32).flatten(0, 1) for _ in range(2))
        flat_keys, flat_values = keys.flatten(0, 1), values.flatten(0, 1)
        for (start, stop), weight in zip(_blocks(size), weights, strict=True):
            seen = past + stop
            grad_block = grad[:, :, :, start:stop].reshape(batch * kv, -1, depth)
            block = queries[:, :, :, start:stop].reshape(batch * kv, -1, depth)
            grad_values[:, :seen] += torch.bmm(weight.transpose(1, 2), grad_block)
            grad_scores = torch.bmm(grad_block, flat_values[:, :seen].transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_scores, weight, -1, weight.dtype)
            grad_queries[:, :, :, start:stop] = _scaled_bmm(grad_scores, flat_keys[:, :seen], depth**-0.5).view(
                batch, kv, groups, stop - start, depth
            )
            grad_keys[:, :seen] += _scaled_bmm(grad_scores.transpose(1, 2), block, depth**-0.5)
        grad_past: list[torch.Tensor | None] = []
        grad_new: list[torch.Tensor] = []
        for total, direct in ((grad_keys.view_as(keys), grad_new_keys), (grad_values.view_as(values), grad_new_values)):
            before, new = total[:, :, :past], total[:, :, past:]
            grad_new.append(new if direct is None else new + direct)
            if past_batch == 1:
                before = before.sum(dim=0, keepdim=True)
            grad_past.append(before.to(keys.dtype) if past else None)
        result = grad.new_empty(batch, size, heads + 2 * kv, depth)
        rotated = result.transpose(1, 2)
        _rotate(grad_queries.view(batch, heads, size, depth), cos, -sin, rotated[:, :heads])
        _rotate(grad_new[0].to(result.dtype), cos, -sin, rotated[:, heads : heads + kv])
        rotated[:, heads + kv :] = grad_new[1]
        return result.view(batch, size, -1), None, None, *grad_past, None, None, None


def attend_segments(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
    segments: Sequence[tuple[torch.Tensor, torch.Tensor, int, int, torch.Tensor | None]], heads: int, kv: int,
) -> torch.Tensor:
    """The same for one row of S tokens without gradients: segments of them, each behind a cache of its own.

    Args:
        qkv: (S, (heads + 2 kv) D).
        cos, sin: (S, D).
        segments: of each the cache's keys and values (1, kv, room, D), into which the new ones are written, how many it
            holds, the segment's number of tokens, and its mask (tokens, M) of the last M keys, None where causal.

    Returns:
        The mix (S, heads D).
    """
    size, depth = len(qkv), qkv.shape[1] // (heads + 2 * kv)
    split = qkv.view(size, heads + 2 * kv, depth)
    rotated = _rotate(split[:, : heads + kv], cos[:, None], sin[:, None], qkv.new_empty(size, heads + kv, depth))
    mixed, start = qkv.new_empty(size, kv, heads // kv, depth), 0
    for keys, values, past, tokens, mask in segments:
        stop, seen = start + tokens, past + tokens
        keys[0, :, past:seen] = rotated[start:stop, heads:].transpose(0, 1)
        values[0, :, past:seen] = split[start:stop, heads + kv :].transpose(0, 1)
        queries = rotated[start:stop, :heads].view(tokens, kv, -1, depth).transpose(0, 1).reshape(kv, -1, depth)
        scores = _scaled_bmm(queries, keys[0, :, :seen].transpose(1, 2), depth**-0.5)
        if mask is None:
            mask = _causal_mask(tokens, scores)
        scores.view(kv, tokens, -1, seen)[..., seen - mask.shape[1] :].add_(mask[:, None])
        weights = torch.softmax(scores, dim=-1)
        mixed[start:stop] = torch.bmm(weights, values[0, :, :seen]).view(kv, tokens, -1, depth).transpose(0, 1)
        start = stop
    return mixed.view(size, -1)


def _causal_mask(size: int, like: torch.Tensor) -> torch.Tensor:
    """Hides (size, size) from each token those behind it."""
    return torch.full((size, size), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device).triu_(1)


def _blocks(size: int) -> list[tuple[int, int]]:
    """Where each block of queries starts and stops: as few as are allowed, of like size."""
    count = -(-size // _QUERIES)
    return [(size * i // count, size * (i + 1) // count) for i in range(count)]


def _scaled_bmm(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.baddbmm(left.new_empty(1, 1, 1), left, right, beta=0, alpha=scale)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """x cos + rotate_half(x) sin over the last axis (rotary position embedding), into `out`."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
