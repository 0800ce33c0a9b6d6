import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from stages.model import fused
from stages.model.fused import LoraLinear, RmsNorm, SwiGlu, TargetLoss


def random(*shape, dtype=torch.float64, grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)


def same_value_and_gradients(mine, theirs, *inputs, tolerance=1e-5):
    """Both functions of the same inputs, the gradients under the same weights."""
    found, expected = mine(*inputs), theirs(*inputs)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    weights = random(*found.shape, dtype=found.dtype, grad=False, seed=9)
    asked = [x for x in inputs if x.requires_grad]
    gradients = (torch.autograd.grad((y * weights).sum(), asked) for y in (found, expected))
    for mine_of, theirs_of in zip(*gradients, strict=True):
        assert mine_of.dtype == theirs_of.dtype
        torch.testing.assert_close(mine_of, theirs_of, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("adapter", [True, False])
def test_the_gradients_of_a_linear_layer_are_those_of_its_differences(bias, adapter):
    x, weight = random(5, 4), random(6, 4, grad=False)
    b = random(6, grad=False, seed=1) if bias else None
    parts = (random(2, 4, seed=2), random(6, 2, seed=3)) if adapter else (None, None)
    assert torch.autograd.gradcheck(LoraLinear.apply, (x, weight, b, *parts))
    expected = functional.linear(x, weight, b) + (x @ parts[0].T @ parts[1].T if adapter else 0)
    torch.testing.assert_close(LoraLinear.apply(x, weight, b, *parts), expected)


def test_an_adapter_learns_from_an_input_that_does_not():
    x, weight, a, b = random(5, 4, grad=False), random(6, 4, grad=False), random(2, 4), random(6, 2)
    assert torch.autograd.gradcheck(LoraLinear.apply, (x, weight, None, a, b))


def test_an_adapter_of_rank_0_is_none():
    x, weight, a, b = random(5, 4), random(6, 4, grad=False), random(0, 4), random(6, 0)
    assert torch.autograd.gradcheck(LoraLinear.apply, (x, weight, None, a, b))
    torch.testing.assert_close(LoraLinear.apply(x, weight, None, a, b), x @ weight.T)


def test_the_gradients_of_a_gated_unit_are_those_of_its_differences():
    gate_up = random(5, 8)
    assert torch.autograd.gradcheck(SwiGlu.apply, (gate_up,))
    torch.testing.assert_close(SwiGlu.apply(gate_up), functional.silu(gate_up[:, :4]) * gate_up[:, 4:])


@pytest.mark.parametrize("size", [1e-2, 1, 10])
def test_the_gradients_of_a_norm_are_those_of_its_differences(size):
    x, weight = (size * random(5, 6, grad=False)).requires_grad_(), random(6, grad=False)
    assert torch.autograd.gradcheck(RmsNorm.apply, (x, weight, 1e-5))


@pytest.mark.parametrize("size", [1e-3, 1, 1e3])
def test_the_norm_is_that_of_transformers(size):
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(16, eps=1e-5).requires_grad_(False)
    norm.weight.copy_(1 + 0.3 * random(16, dtype=torch.float32, grad=False))
    x = (size * random(7, 16, grad=False)).float().requires_grad_()
    mine = lambda x: RmsNorm.apply(x, norm.weight, norm.variance_epsilon)  # noqa: E731
    same_value_and_gradients(mine, norm, x, tolerance=1e-5 * max(1, 1 / size))
    # in bf16 the statistics stay float32: as far from the truth as one rounding, not as 16 of them
    low = x.detach().bfloat16()
    truth = RmsNorm.apply(low.float(), norm.weight, norm.variance_epsilon)
    torch.testing.assert_close(
        RmsNorm.apply(low, norm.weight.bfloat16(), norm.variance_epsilon).float(), truth, atol=0, rtol=3 * 2**-8
    )


def states(rows=7, dtype=torch.float32):
    """Hidden states, and a head's weight and bias."""
    return random(rows, 6, dtype=dtype), random(11, 6, dtype=dtype, grad=False), random(11, dtype=dtype, grad=False)


def plain_loss(hidden, weight, bias, targets, added=0):
    """`added` (N, V) is added to the logits."""
    logits = functional.linear(hidden, weight, bias).float() + added
    return functional.cross_entropy(logits, targets, reduction="sum")


TARGETS = torch.tensor([3, 0, 10, 3, 3, 5, 1])


def shifts(rows=7, children=4, vocabulary=11, size=2.0, seed=0):
    """Tokens and shifts (N, K), the last of each row filled up by 0 on token 0; and the same as (N, V)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.stack([torch.randperm(vocabulary, generator=generator)[:children] for _ in range(rows)])
    values = size * torch.randn(rows, children, generator=generator)
    tokens[:, -1], values[:, -1] = 0, 0
    return (tokens, values), torch.zeros(rows, vocabulary).scatter_add_(1, tokens, values)


@pytest.mark.parametrize("rows", [1, 3, 7, 64])
@pytest.mark.parametrize("biased", [True, False])
def test_the_loss_is_the_cross_entropy_whatever_the_block(monkeypatch, rows, biased):
    monkeypatch.setattr(fused, "_HEAD_ROWS", rows)
    hidden, weight, bias = states()
    rest = weight, bias if biased else None, torch.tensor([3, 0, 10, 3, 3, 5, 1])
    same_value_and_gradients(lambda h: TargetLoss.apply(h, *rest), lambda h: plain_loss(h, *rest), hidden)
    found = TargetLoss.apply(hidden, *rest)
    assert found.dtype == torch.float32 and found.shape == ()


@pytest.mark.parametrize("rows", [1, 3, 7, 64])
@pytest.mark.parametrize("biased", [True, False])
def test_the_shifted_loss_is_the_cross_entropy_of_shifted_logits_whatever_the_block(monkeypatch, rows, biased):
    monkeypatch.setattr(fused, "_HEAD_ROWS", rows)
    hidden, weight, bias = states()
    rest = weight, bias if biased else None, TARGETS
    sparse, added = shifts()
    same_value_and_gradients(
        lambda h: TargetLoss.apply(h, *rest, sparse), lambda h: plain_loss(h, *rest, added), hidden
    )
    assert TargetLoss.apply(hidden, *rest, sparse) != TargetLoss.apply(hidden, *rest)


@settings(max_examples=40, database=None)
@given(children=st.integers(1, 11), size=st.sampled_from([0.0, 0.1, 1.0, 20.0]), seed=st.integers(0, 999))
def test_shifts_of_0_are_none_and_others_are_those_of_the_plain_loss(children, size, seed):
    hidden, weight, bias = states()
    sparse, added = shifts(children=children, size=size, seed=seed)
    same_value_and_gradients(
        lambda h: TargetLoss.apply(h, weight, bias, TARGETS, sparse),
        lambda h: plain_loss(h, weight, bias, TARGETS, added), hidden,
    )
    if not added.any():
        found = []
        for part in (sparse, None):
            loss = TargetLoss.apply(hidden, weight, bias, TARGETS, part)
            (gradient,) = torch.autograd.grad(loss, hidden)
            found.append((loss, gradient))
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True)), "bit by bit"


def test_a_shift_of_every_token_alike_changes_nothing():
    hidden, weight, bias = states()
    every = torch.arange(11).expand(7, 11), torch.arange(7.0)[:, None].expand(7, 11)
    same_value_and_gradients(
        lambda h: TargetLoss.apply(h, weight, bias, TARGETS, every),
        lambda h: TargetLoss.apply(h, weight, bias, TARGETS), hidden,
    )


def test_in_bf16_shifts_are_not_rounded():
    hidden, weight, bias = states(700, torch.bfloat16)
    targets, (sparse, added) = torch.arange(700) % 11, shifts(700, size=30.0)
    found, expected = TargetLoss.apply(hidden, weight, bias, targets, sparse), plain_loss(
        hidden, weight, bias, targets, added
    )
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-6)


def test_the_losses_gradient_goes_with_what_is_done_to_the_loss():
    hidden, *rest = *states(), torch.arange(7)
    for change in (lambda loss: loss / 7, lambda loss: -3 * loss, lambda loss: loss**2):
        (found,) = torch.autograd.grad(change(TargetLoss.apply(hidden, *rest)), hidden)
        (expected,) = torch.autograd.grad(change(plain_loss(hidden, *rest)), hidden)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_no_target_no_loss():
    hidden, weight, bias = states(0)
    loss = TargetLoss.apply(hidden, weight, bias, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and hidden.grad.shape == (0, 6)


def test_a_loss_without_gradients_is_the_same_number():
    hidden, *rest = *states(), torch.arange(7)
    with torch.no_grad():
        looked = TargetLoss.apply(hidden, *rest)
    assert not looked.requires_grad and looked == TargetLoss.apply(hidden, *rest)


def test_in_bf16_the_loss_is_summed_in_float32():
    hidden, *rest = *states(700, torch.bfloat16), torch.arange(700) % 11
    found, expected = TargetLoss.apply(hidden, *rest), plain_loss(hidden, *rest)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-6)
    (mine,), (theirs,) = (torch.autograd.grad(loss / 700, hidden) for loss in (found, expected))
    torch.testing.assert_close(mine.float(), theirs.float(), atol=float(theirs.abs().max()) * 2**-7, rtol=0)


def test_the_loss_stands_where_the_states_are():
    hidden, head = torch.empty(7, 6, device="meta", requires_grad=True), torch.empty(11, 6, device="meta")
    loss = TargetLoss.apply(hidden, head, None, torch.empty(7, dtype=torch.long, device="meta"))
    loss.backward()
    assert loss.device.type == hidden.grad.device.type == "meta"
