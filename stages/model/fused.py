"""The steps of a decoder layer as few large operations, each with its own backward pass.

A step of training with adapters does its matrix products at the speed of the machine and loses as much time again
between them: adapters apart from the weights that they belong to, conversions to float32 and back, a pass over memory
for each small operation. Here products that read the same input are one, an adapter is added into its layer's result,
and what a backward pass needs is kept instead of computed again. Weights are frozen, so they have no gradient.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

Context = Any  # torch.autograd.function.FunctionCtx, without a public type of its own


class LoraLinear(torch.autograd.Function):
    """x Wᵀ + b + (x Aᵀ) Bᵀ of tokens x (T, in), weight (out, in), bias (out,) or None, A (r, in), B (out, r).

    B carries the adapter's scale already; A and B are None where there is no adapter.
    """

    @staticmethod
    def forward(ctx: Context, x, weight, bias, a, b):
        y = functional.linear(x, weight, bias)
        down = None
        if a is not None:
            down = x @ a.t()
            y.addmm_(down, b.t())
        ctx.save_for_backward(x if a is not None else None, weight, a, b, down)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad):
        x, weight, a, b, down = ctx.saved_tensors
        grad_x = grad @ weight if ctx.needs_input_grad[0] else None
        if a is None:
            return grad_x, None, None, None, None
        grad_down = grad @ b
        if grad_x is not None:
            grad_x.addmm_(grad_down, a)
        return grad_x, None, None, grad_down.t() @ x, grad.t() @ down


class RmsNorm(torch.autograd.Function):
    """Root-mean-square norm over the last axis of x (T, H), in float32, rounded once."""

    @staticmethod
    def forward(ctx: Context, x, weight, eps: float):
        y, scale = torch.ops.aten._fused_rms_norm(x, [x.shape[-1]], weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad):
        x, weight, scale = ctx.saved_tensors
        normed = torch.mul(x, scale)  # scale is float32, and so is the product
        inner = (grad * weight).to(normed.dtype)
        mean = torch.linalg.vecdot(inner, normed)[:, None].div_(x.shape[-1])
        return inner.addcmul_(normed, mean, value=-1).mul_(scale).to(x.dtype), None, None


class SwiGlu(torch.autograd.Function):
    """silu(gate) · up, of gate and up side by side (T, 2 I)."""

    @staticmethod
    def forward(ctx: Context, gate_up):
        gate, up = gate_up.chunk(2, dim=-1)
        active = functional.silu(gate)
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad):
        gate_up, active = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad_both = torch.empty_like(gate_up)
        grad_gate, grad_up = grad_both.chunk(2, dim=-1)
        torch.mul(grad, active, out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_both


class TargetLoss(torch.autograd.Function):
    """Sum of the cross-entropies of `targets` (N,) after hidden states (N, H), by a frozen head: weight (V, H), bias
    (V,) or None.

    `shifts` is None, or tokens (N, K) and what is added to their logits (N, K), in float32, before the softmax. The
    gradient is computed on the way, block by block: the N × V logits never stand in memory.
    """

    @staticmethod
    def forward(ctx: Context, hidden, weight, bias, targets, shifts=None):
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grads = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), _HEAD_ROWS):
            block = slice(start, start + _HEAD_ROWS)
            target, logits = targets[block, None], functional.linear(hidden[block], weight, bias)
            if shifts is not None:
                # in float32 first: bf16 would round what is added
                logits = logits.float().scatter_add_(1, *(part[block] for part in shifts))
            log_p = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
            target_log_p = log_p.gather(1, target)
            total -= target_log_p.sum()
            if grads is not None:
                p = log_p.exp_()
                p.scatter_add_(1, target, torch.full_like(target_log_p, -1.0))
                torch.mm(p.to(weight.dtype), weight, out=grads[block])
        ctx.save_for_backward(grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad):
        (grads,) = ctx.saved_tensors
        return grads * grad, None, None, None, None


_HEAD_ROWS = 64  # 64 positions of 49,152 logits in float32 are 12.6 MB: they stay in the cache
