"""Tiny models with adapters, and what it means that two readers read the same."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from stages.model import attention
from stages.model.llama import LlamaDecoder
from stages.model.reader import PlainReader
from stages.model.readers import make_reader
from stages.model.tree import additive

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def sharp(model, seed=0):
    """Random weights with which it matters what is read and where."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        mean, spread = (1, 0.2) if "norm" in name else (0, 0.3)
        weight.data.normal_(mean, spread, generator=generator)
    return model.eval().requires_grad_(False)


def llama(heads=4, kv=2, **changes):
    sizes = {"vocab_size": 60, "hidden_size": 8 * heads, "intermediate_size": 40, "num_hidden_layers": 3,
             "num_attention_heads": heads, "num_key_value_heads": kv, "max_position_embeddings": 256}
    return sharp(LlamaForCausalLM(LlamaConfig(**(sizes | changes))))


def qwen2(heads=4, kv=2, **changes):
    sizes = {"vocab_size": 60, "hidden_size": 8 * heads, "intermediate_size": 40, "num_hidden_layers": 3,
             "num_attention_heads": heads, "num_key_value_heads": kv, "max_position_embeddings": 256}
    return sharp(Qwen2ForCausalLM(Qwen2Config(**(sizes | changes))))


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}
MODELS = {
    "llama": llama, "one kv head": lambda: llama(kv=1), "as many kv heads as heads": lambda: llama(kv=4),
    "three groups": lambda: llama(heads=6), "heads of their own depth": lambda: llama(head_dim=12),
    "biases": lambda: llama(attention_bias=True, mlp_bias=True), "tied": lambda: llama(tie_word_embeddings=True),
    "yarn": lambda: llama(rope_parameters=YARN), "qwen2": qwen2, "qwen2, one kv head": lambda: qwen2(kv=1),
}


def adapted(model, adapters=None, seed=1, **config):
    """With adapters by name, none of which is 0."""
    adapters = adapters or {"default": {}}
    for name, changes in adapters.items():
        options = LoraConfig(**({"r": 3, "lora_alpha": 7, "target_modules": LINEAR} | config | changes))
        if isinstance(model, PeftModel):
            model.add_adapter(name, options)
        else:
            model = get_peft_model(model, options, adapter_name=name)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.15, generator=generator)
    return model.eval()


def tokens(batch, size, seed=0):
    return torch.randint(0, 60, (batch, size), generator=torch.Generator().manual_seed(seed))


def positions(size, start=0):
    return torch.arange(start, start + size)[None]


def close(found, expected, tolerance=1e-5):
    """Relative to the largest number there is."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, atol=tolerance * float(expected.detach().abs().max()), rtol=0)


def alike(found, expected):
    close(found[0], expected[0])
    assert len(found[1]) == len(expected[1])
    for mine, theirs in zip(found[1], expected[1], strict=True):
        close(mine[0], theirs[0])
        close(mine[1], theirs[1])


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def model(request):
    return request.param()


@pytest.fixture
def small_blocks(monkeypatch):
    """So that a few tokens are several blocks of queries."""
    monkeypatch.setattr(attention, "_QUERIES", 4)


def causal(batch, size, old, seed=0):
    """A random mask (B, S, P + S) under which each token sees itself."""
    generator = torch.Generator().manual_seed(seed)
    allowed = (torch.rand(batch, size, old + size, generator=generator) < 0.6).tril(old)
    allowed[:, torch.arange(size), old + torch.arange(size)] = True
    return additive(allowed.numpy(), torch.float32)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def same_gradients(found, expected, tolerance=1e-4):
    assert found.keys() == expected.keys() and expected
    for name, gradient in expected.items():
        close(found[name], gradient, tolerance)
        assert gradient.abs().max() > 1e-3, "gradients that say something"


def same_losses(found, expected):
    assert found.item() == pytest.approx(expected.item(), abs=1e-3)


def weighted(hidden, seed=0):
    return (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(seed))).sum()


def read_twice(reader, old, each, mask):
    """A loss behind a prefix, nothing of which comes from the prefix's own states."""
    past = reader.read(tokens(3 if each else 1, old), positions(old))[1]
    hidden, _ = reader.read(tokens(3, 9, seed=1), positions(9, old), past, causal(3, 9, old) if mask else None)
    return weighted(hidden)


def read_three_times(reader):
    """As scores are made: a prefix, prompts behind it, trees behind both; losses on the way, the prefix used twice."""
    past = reader.read(tokens(1, 5), positions(5))[1]
    hidden, own = reader.read(tokens(2, 6, seed=1), positions(6, 5), past)
    both = [tuple(torch.cat([a.expand(2, -1, -1, -1), b[:, :, :4]], dim=2) for a, b in zip(*of, strict=True))
            for of in zip(past, own, strict=True)]
    tree, _ = reader.read(tokens(2, 3, seed=2), positions(3, 9), both, causal(1, 3, 9))
    others, _ = reader.read(tokens(4, 2, seed=3), positions(2, 5), past)
    return weighted(tree) + weighted(hidden[:, 2]) + weighted(others, 1)




def reads_like_plain(model, differs_from=None, tolerance=1e-5):
    ids, where = tokens(2, 9), positions(9)
    fast = make_reader(model)
    assert isinstance(fast, LlamaDecoder)
    with torch.no_grad():
        found, expected = fast.read(ids, where)[0], PlainReader(model).read(ids, where)[0]
    close(found, expected, tolerance)
    if differs_from is not None:
        assert (found - differs_from).abs().max() > 0.05
    return found
