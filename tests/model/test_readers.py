"""The fast reader reads what the models' own forward reads, and is given to the models that it can read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, OFTConfig, PromptTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from stages.model import attention
from stages.model.llama import LlamaDecoder
from stages.model.load import load_adapter, load_base, new_adapter
from stages.model.reader import PlainReader
from stages.model.readers import make_reader
from stages.model.tree import AnswerTree, pack
from tests.model.models import (  # noqa: F401  (fixtures)
    MODELS, adapted, alike, causal, close, llama, model, positions, qwen2, sharp, small_blocks, tokens,
)
from tests.small_log import small_params


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8, 13])
@pytest.mark.usefixtures("small_blocks")
def test_it_reads_what_the_models_own_forward_reads(model, size):
    ids = tokens(2, size)
    with torch.no_grad():
        found = LlamaDecoder(model).read(ids, positions(size))
        alike(found, PlainReader(model).read(ids, positions(size)))
        close(found[0], model.get_decoder()(ids).last_hidden_state)
    depth = model.config.head_dim if hasattr(model.config, "head_dim") else 8
    assert found[1][0][0].shape == (2, model.config.num_key_value_heads, size, depth)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("each", [True, False], ids=["each its own past", "one past for all"])
@pytest.mark.usefixtures("small_blocks")
def test_it_reads_behind_what_was_read_before(model, each, mask):
    before, ids = tokens(3 if each else 1, 7), tokens(3, 9, seed=1)
    hidden = causal(3, 9, 7) if mask else None
    with torch.no_grad():
        past = PlainReader(model).read(before, positions(7))[1]
        found = LlamaDecoder(model).read(ids, positions(9, 7), past, hidden)
        alike(found, PlainReader(model).read(ids, positions(9, 7), past, hidden))
        whole = LlamaDecoder(model).read(torch.cat([before.expand(3, -1), ids], dim=1), positions(16))
    if not mask:
        close(found[0], whole[0][:, 7:])
    assert (found[0] - LlamaDecoder(model).read(ids, positions(9))[0]).abs().max() > 0.1, "the past matters"


@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.usefixtures("small_blocks")
def test_packed_trees_of_several_sizes_are_read_as_each_alone(model, prefix):
    answers = [[[5, 6, 9], [5, 7, 9], [9]], [[6, 9]], [[5, 6, 7, 8, 9], [4, 9], [5, 9]]]
    prompts = [tokens(1, size, seed=size)[0].tolist() for size in (4, 1, 6)]
    trees = [AnswerTree.build(few) for few in answers]
    packed = pack(prompts, trees, prefix, torch.float32)
    beginning = tokens(1, prefix, seed=9)
    fast, plain = LlamaDecoder(model), PlainReader(model)
    with torch.no_grad():
        past = plain.read(beginning, positions(prefix))[1] if prefix else None
        found = fast.read(packed.input_ids, packed.positions, past, packed.mask)[0]
        expected = plain.read(packed.input_ids, packed.positions, past, packed.mask)[0]
        for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
            size = len(prompt) + len(tree.tokens)  # padding behind it is nobody's concern
            close(found[row, :size], expected[row, :size])
            for node in range(len(tree.tokens)):
                path = tree.tokens[tree.ancestors[node]].tolist()
                alone = torch.tensor([beginning[0].tolist() + prompt + path])
                close(found[row, len(prompt) + node], model.get_decoder()(alone).last_hidden_state[0, -1])
        assert found.isfinite().all()


@settings(max_examples=40, database=None)
@given(
    name=st.sampled_from(["llama", "one kv head", "three groups", "qwen2"]), batch=st.integers(1, 3),
    size=st.integers(1, 12), old=st.integers(0, 6), each=st.booleans(), mask=st.booleans(), chunk=st.integers(1, 13),
    seed=st.integers(0, 99),
)
def test_any_shapes(name, batch, size, old, each, mask, chunk, seed):
    model = MODELS[name]()
    ids, where = tokens(batch, size, seed), torch.randint(old, old + size, (batch if each else 1, size))
    hidden = causal(batch if each else 1, size, old, seed) if mask else None
    before = tokens(batch if each else 1, old, seed + 1)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(attention, "_QUERIES", chunk)
        past = PlainReader(model).read(before, positions(old))[1] if old else None
        alike(LlamaDecoder(model).read(ids, where, past, hidden), PlainReader(model).read(ids, where, past, hidden))


@pytest.mark.parametrize("make", [LlamaDecoder, PlainReader], ids=["fast", "plain"])
def test_in_pieces_or_at_once(make):
    model = llama()
    ids = tokens(2, 11)
    with torch.no_grad():
        whole, _ = make(model).read(ids, positions(11))
        past, parts = None, []
        for start, stop in ((0, 4), (4, 5), (5, 11)):
            states, new = make(model).read(ids[:, start:stop], positions(stop - start, start), past)
            parts.append(states)
            layers = zip(past, new, strict=True) if past else ()
            past = [tuple(torch.cat(both, dim=2) for both in zip(*layer, strict=True)) for layer in layers] or new
    close(torch.cat(parts, dim=1), whole)


class Wrapper(torch.nn.Module):
    """As DistributedDataParallel: its forward has to be called."""

    def __init__(self, module):
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.module(*args, **kwargs)


def test_the_models_of_the_pipeline_get_the_fast_reader(tiny_base, tuned):
    assert isinstance(make_reader(load_adapter(tuned)), LlamaDecoder)
    assert isinstance(make_reader(new_adapter(tiny_base, small_params().lora, 0)), LlamaDecoder)
    base = load_base(tiny_base)
    assert isinstance(make_reader(base.requires_grad_(False)), LlamaDecoder)
    base.requires_grad_(True)
    with torch.inference_mode():
        assert isinstance(make_reader(base), LlamaDecoder)
    assert isinstance(make_reader(base), PlainReader), "weights that train"


def gpt2():
    return sharp(GPT2LMHeadModel(GPT2Config(
        vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2,
    )))


def merged():
    model = adapted(llama())
    model.merge_adapter()
    return model


OTHERS = {
    "another architecture": gpt2, "a wrapper": lambda: Wrapper(adapted(llama())), "an adapter merged": merged,
    "dropout": lambda: adapted(llama(), lora_dropout=0.1),
    "dropout of one of two adapters": lambda: adapted(llama(), {"default": {}, "other": {"lora_dropout": 0.1}}),
    "an adapter with biases": lambda: adapted(llama(attention_bias=True, mlp_bias=True), lora_bias=True),
    "biases that train": lambda: adapted(llama(attention_bias=True), bias="all"),
    "a norm that trains": lambda: adapted(llama(), modules_to_save=["norm"]),
    "magnitudes": lambda: adapted(llama(), use_dora=True), "another activation": lambda: llama(hidden_act="gelu"),
    "attention dropout": lambda: llama(attention_dropout=0.1),
    "a sliding window": lambda: qwen2(use_sliding_window=True, sliding_window=64, max_window_layers=1),
}


def test_tuned_prompts_are_not_left_out():
    model = get_peft_model(llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with torch.no_grad():
        assert type(make_reader(model)) is PlainReader


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_other_models_are_read_by_their_own_forward(make):
    model = make()
    reader = make_reader(model)
    assert isinstance(reader, PlainReader)
    past = reader.read(tokens(1, 5), positions(5))[1]
    found = reader.read(tokens(2, 4, seed=1), positions(4, 5), past)[0]
    whole = torch.cat([tokens(1, 5).expand(2, -1), tokens(2, 4, seed=1)], dim=1)
    close(found, getattr(model, "module", model).get_decoder()(whole).last_hidden_state[:, 5:])
    if isinstance(model, Wrapper):
        assert model.calls == 2


def test_variants_of_lora_are_not_taken_for_it():
    model = adapted(llama(), alora_invocation_tokens=[5], task_type="CAUSAL_LM")
    assert isinstance(make_reader(model), PlainReader)


@pytest.mark.parametrize("config", [
    IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False),
    OFTConfig(oft_block_size=4, target_modules=["q_proj"], init_weights=False),
], ids=["ia3", "oft"])
def test_adapters_of_another_kind_are_not_left_out(config):
    model = get_peft_model(llama(), config).eval()
    with torch.no_grad():
        found = make_reader(model).read(tokens(2, 9), positions(9))[0]
        close(found, model.get_base_model().get_decoder()(tokens(2, 9)).last_hidden_state)
        assert (found - LlamaDecoder(llama()).read(tokens(2, 9), positions(9))[0]).abs().max() > 0.05
