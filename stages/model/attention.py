"""Attention of new tokens to what was read before and to each other, as plain matrix products.

The usual fused kernels spare memory; on a CPU they run at a tenth of the speed of its matrix products. With the few
hundred keys of a behaviour prompt all weights fit the cache, so here they are made block by block of queries, kept for the
backward pass, and keys that a block cannot see are not multiplied at all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

_QUERIES = 192  # a block: larger ones multiply more keys in vain, smaller ones keep the cores less busy


class Attend(torch.autograd.Function):
    """Rotary grouped-query causal attention of S new tokens behind P old ones.

    Args of `apply`: `qkv` (B, S, (heads + 2 kv) D); `cos`, `sin` (B or 1, S, D); `old_keys`, `old_values`
    (B or 1, kv, P, D), or None; `mask` (B or 1, S, P + S) additive, None for plain causal attention (a mask must be no
    less causal); `heads`; `kv`.

    Returns the mix (B, S, heads D) and the new tokens' rotated keys and values (B, kv, S, D).
    """

    @staticmethod
    def forward(ctx: Any, qkv, cos, sin, old_keys, old_values, mask, heads: int, kv: int):
        ctx.set_materialize_grads(False)
        batch, size, width = qkv.shape
        depth, groups = width // (heads + 2 * kv), heads // kv
        old = 0 if old_keys is None else old_keys.shape[2]
        split = qkv.view(batch, size, heads + 2 * kv, depth).transpose(1, 2)
        cos, sin = cos[:, None], sin[:, None]
        queries = _rotate(split[:, :heads], cos, sin, qkv.new_empty(batch, heads, size, depth))
        keys, values = (qkv.new_empty(batch, kv, old + size, depth) for _ in range(2))
        if old:
            keys[:, :, :old], values[:, :, :old] = old_keys, old_values
        _rotate(split[:, heads : heads + kv], cos, sin, keys[:, :, old:])
        values[:, :, old:] = split[:, heads + kv :]
        queries = queries.view(batch, kv, groups, size, depth)
        mixed = qkv.new_empty(batch, size, kv, groups, depth).permute(0, 2, 3, 1, 4)
        flat_keys, flat_values = keys.flatten(0, 1), values.flatten(0, 1)
        weights = []
        for start, stop in _blocks(size):
            seen = old + stop
            block = queries[:, :, :, start:stop].reshape(batch * kv, -1, depth)
            scores = _product(block, flat_keys[:, :seen].transpose(1, 2), depth**-0.5)
            _hide(scores.view(batch, kv, groups, stop - start, seen), mask, old, start, stop)
            shares = torch.softmax(scores, dim=-1)
            mixed[:, :, :, start:stop] = torch.bmm(shares, flat_values[:, :seen]).view(
                batch, kv, groups, stop - start, depth
            )
            weights.append(shares)
        ctx.shape = (heads, kv, old, 0 if old_keys is None else old_keys.shape[0])
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(queries, keys, values, cos, sin, *weights)
        return mixed.permute(0, 3, 1, 2, 4).reshape(batch, size, heads * depth), keys[:, :, old:], values[:, :, old:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad, grad_new_keys, grad_new_values):
        queries, keys, values, cos, sin, *weights = ctx.saved_tensors
        heads, kv, old, old_batch = ctx.shape
        batch, _, groups, size, depth = queries.shape
        if grad is None:  # nobody asked for the mix, only for the keys and values
            grad = queries.new_zeros(batch, size, heads * depth)
        grad = grad.reshape(batch, size, kv, groups, depth).permute(0, 2, 3, 1, 4)
        grad_queries = torch.empty_like(queries)
        # blocks are added up: in bf16 that would round each time
        grad_keys, grad_values = (torch.zeros_like(keys, dtype=torch.float32).flatten(0, 1) for _ in range(2))
        flat_keys, flat_values = keys.flatten(0, 1), values.flatten(0, 1)
        for (start, stop), shares in zip(_blocks(size), weights, strict=True):
            seen = old + stop
            wanted = grad[:, :, :, start:stop].reshape(batch * kv, -1, depth)
            block = queries[:, :, :, start:stop].reshape(batch * kv, -1, depth)
            grad_values[:, :seen] += torch.bmm(shares.transpose(1, 2), wanted)
            grad_scores = torch.bmm(wanted, flat_values[:, :seen].transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_scores, shares, -1, shares.dtype)
            grad_queries[:, :, :, start:stop] = _product(grad_scores, flat_keys[:, :seen], depth**-0.5).view(
                batch, kv, groups, stop - start, depth
            )
            grad_keys[:, :seen] += _product(grad_scores.transpose(1, 2), block, depth**-0.5)
        grad_keys, grad_values = grad_keys.view_as(keys), grad_values.view_as(values)
        new_keys, new_values = grad_keys[:, :, old:], grad_values[:, :, old:]
        if grad_new_keys is not None:
            new_keys = new_keys + grad_new_keys
        if grad_new_values is not None:
            new_values = new_values + grad_new_values
        result = grad.new_empty(batch, size, heads + 2 * kv, depth)
        turned = result.transpose(1, 2)
        _rotate(grad_queries.view(batch, heads, size, depth), cos, -sin, turned[:, :heads])
        _rotate(new_keys.to(result.dtype), cos, -sin, turned[:, heads : heads + kv])
        turned[:, heads + kv :] = new_values
        before: tuple = (None, None)
        if old:
            before = tuple(
                (g[:, :, :old].sum(dim=0, keepdim=True) if old_batch == 1 else g[:, :, :old]).to(keys.dtype)
                for g in (grad_keys, grad_values)
            )
        return result.view(batch, size, -1), None, None, *before, None, None, None


def attend_behind(
    qkv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor,
    runs: Sequence[tuple[torch.Tensor, torch.Tensor, int, int, torch.Tensor | None]], heads: int, kv: int,
) -> torch.Tensor:
    """The same for one row of S tokens without gradients: runs of them, each behind keys and values of its own.

    Args:
        qkv: (S, (heads + 2 kv) D).
        cos, sin: (S, D).
        runs: of each its keys and values (1, kv, room, D), into which the new ones are written, how many there are, how
            many tokens the run has, and its mask (tokens, M) of the last M keys, None for causal attention.

    Returns:
        The mix (S, heads D).
    """
    size, depth = len(qkv), qkv.shape[1] // (heads + 2 * kv)
    split = qkv.view(size, heads + 2 * kv, depth)
    turned = _rotate(split[:, : heads + kv], cos[:, None], sin[:, None], qkv.new_empty(size, heads + kv, depth))
    mixed, start = qkv.new_empty(size, kv, heads // kv, depth), 0
    for keys, values, old, tokens, mask in runs:
        stop, seen = start + tokens, old + tokens
        keys[0, :, old:seen] = turned[start:stop, heads:].transpose(0, 1)
        values[0, :, old:seen] = split[start:stop, heads + kv :].transpose(0, 1)
        queries = turned[start:stop, :heads].view(tokens, kv, -1, depth).transpose(0, 1).reshape(kv, -1, depth)
        scores = _product(queries, keys[0, :, :seen].transpose(1, 2), depth**-0.5)
        if mask is None:
            mask = _later(tokens, scores)
        scores.view(kv, tokens, -1, seen)[..., seen - mask.shape[1] :] += mask[:, None]
        shares = torch.softmax(scores, dim=-1)
        mixed[start:stop] = torch.bmm(shares, values[0, :, :seen]).view(kv, tokens, -1, depth).transpose(0, 1)
        start = stop
    return mixed.view(size, -1)


def _later(size: int, like: torch.Tensor) -> torch.Tensor:
    """Hides (size, size) from each token those behind it."""
    return torch.full((size, size), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device).triu_(1)


def _blocks(size: int) -> list[tuple[int, int]]:
    count = -(-size // _QUERIES)
    edges = [size * i // count for i in range(count + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _product(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    unused = left.new_empty(1, 1, 1)
    return torch.baddbmm(unused, left, right, beta=0, alpha=scale)


def _hide(scores: torch.Tensor, mask: torch.Tensor | None, old: int, start: int, stop: int) -> None:
    """Make invisible what a block's queries (B, kv, groups, stop - start, old + stop) may not attend to."""
    if mask is not None:
        scores += mask[:, None, None, start:stop, : old + stop]
        return
    scores[..., old + start :] += _later(stop - start, scores)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """x cos + rotate_half(x) sin over the last axis (rotary position embedding) into `out`."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
