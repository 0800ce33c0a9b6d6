import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from stages.model import attention
from stages.model.attention import Attend

HEADS = {"one kv head": (4, 1), "as many kv heads as heads": (2, 2), "three groups": (6, 2)}


def turn(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos[:, None] + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin[:, None]


def plain(qkv, cos, sin, old_keys, old_values, mask, heads, kv):
    """The same, as the formula stands in the books."""
    batch, size, width = qkv.shape
    depth = width // (heads + 2 * kv)
    queries, keys, values = qkv.view(batch, size, -1, depth).transpose(1, 2).split([heads, kv, kv], dim=1)
    new_keys = turn(keys, cos, sin)
    keys, values_seen = new_keys, values
    if old_keys is not None:
        keys = torch.cat([old_keys.expand(batch, -1, -1, -1), keys], dim=2)
        values_seen = torch.cat([old_values.expand(batch, -1, -1, -1), values], dim=2)
    seen = keys.shape[2]
    if mask is None:
        mask = torch.full((1, size, seen), torch.finfo(qkv.dtype).min, dtype=qkv.dtype).triu(1 + seen - size)
    keys, values_seen = (x.repeat_interleave(heads // kv, dim=1) for x in (keys, values_seen))
    scores = turn(queries, cos, sin) @ keys.transpose(2, 3) * depth**-0.5 + mask[:, None]
    mixed = functional.softmax(scores, dim=-1) @ values_seen
    return mixed.transpose(1, 2).reshape(batch, size, -1), new_keys, values


def inputs(batch, size, old, old_batch, heads, kv, positions=1, mask=False, depth=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    qkv = make(batch, size, (heads + 2 * kv) * depth).requires_grad_()
    angles = make(positions, size, depth // 2).repeat(1, 1, 2)
    past = [make(old_batch, kv, old, depth).requires_grad_() if old else None for _ in range(2)]
    additive = None
    if mask:  # each token sees itself, and of what stands before it some
        allowed = (torch.rand(batch, size, old + size, generator=generator) < 0.6).tril(old)
        allowed |= functional.pad(torch.eye(size), (old, 0)).bool()
        additive = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    return qkv, angles.cos(), angles.sin(), *past, additive, heads, kv


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize(("old", "old_batch"), [(0, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS.keys())
def test_its_gradients_are_those_of_its_differences(monkeypatch, heads, old, old_batch, mask):
    monkeypatch.setattr(attention, "_QUERIES", 2)
    given_ = inputs(2, 3, old, old_batch, *heads, mask=mask, depth=2)
    # blocks' gradients of keys and values are added up in float32
    assert torch.autograd.gradcheck(Attend.apply, given_, atol=1e-5)


@settings(max_examples=40, database=None)
@given(
    heads=st.sampled_from(list(HEADS.values())), batch=st.integers(1, 3), size=st.integers(1, 9), old=st.integers(0, 5),
    each=st.booleans(), mask=st.booleans(), chunk=st.integers(1, 10), seed=st.integers(0, 99),
)
def test_it_is_the_plain_formula_whatever_the_block(heads, batch, size, old, each, mask, chunk, seed):
    given_ = inputs(
        batch, size, old, batch if each else 1, *heads, positions=batch if each else 1, mask=mask, seed=seed
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_QUERIES", chunk)
        found, expected = Attend.apply(*given_), plain(*given_)
        weights = [torch.randn_like(part) for part in expected]
        asked = [part for part in given_[:5] if part is not None and part.requires_grad]
        gradients = [
            torch.autograd.grad(sum((part * w).sum() for part, w in zip(parts, weights, strict=True)), asked)
            for parts in (found, expected)
        ]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=0)
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [191, 192, 193, 400])
def test_blocks_cover_every_query_once_and_are_of_like_size(size):
    blocks = attention._blocks(size)
    assert [at for start, stop in blocks for at in range(start, stop)] == list(range(size))
    sizes = [stop - start for start, stop in blocks]
    assert max(sizes) <= attention._QUERIES and max(sizes) - min(sizes) <= 1


def test_in_bf16_gradients_that_blocks_add_up_are_rounded_once(monkeypatch):
    def gradients(dtype, function):
        given_ = [x.detach().to(dtype).requires_grad_(x.requires_grad) if torch.is_tensor(x) else x
                  for x in inputs(1, 64, 8, 1, 2, 1, depth=8, dtype=torch.bfloat16)]
        return torch.autograd.grad(function(*given_)[0].sum(), [given_[0], *given_[3:5]])

    monkeypatch.setattr(attention, "_QUERIES", 2)
    truth = gradients(torch.float64, plain)
    for mine, theirs, exact in zip(
        gradients(torch.bfloat16, Attend.apply), gradients(torch.bfloat16, plain), truth, strict=True
    ):
        assert (mine - exact).abs().mean() <= 1.5 * (theirs - exact).abs().mean()


def test_keys_that_nobody_asks_gradients_of_get_none():
    qkv, cos, sin, keys, values, *rest = inputs(2, 3, 3, 1, 2, 1)
    keys, values = keys.detach(), values.detach()
    Attend.apply(qkv, cos, sin, keys, values, *rest)[0].sum().backward()
    assert keys.grad is None and values.grad is None and qkv.grad is not None
