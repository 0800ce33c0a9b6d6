import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, OFTConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from stages.lm import attention
from stages.lm.llama import LlamaDecoder
from stages.lm.load import load_adapter, load_base, new_adapter
from stages.lm.reader import PlainReader
from stages.lm.readers import reader_of
from stages.lm.tree import AnswerTree, additive, pack
from tests.small_log import small_params

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
    trees = [AnswerTree.of(few) for few in answers]
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


@settings(max_examples=40, deadline=None, database=None)
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
            past = [tuple(torch.cat(both, dim=2) for both in zip(*of, strict=True)) for of in zip(past, new, strict=True)] \
                if past else new
    close(torch.cat(parts, dim=1), whole)


# gradients


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def same_gradients(found, expected, tolerance=2e-5):
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
    """As scores are made: a prefix, prompts behind it, trees behind both; losses on the way, and the prefix used twice."""
    past = reader.read(tokens(1, 5), positions(5))[1]
    hidden, own = reader.read(tokens(2, 6, seed=1), positions(6, 5), past)
    both = [tuple(torch.cat([a.expand(2, -1, -1, -1), b[:, :, :4]], dim=2) for a, b in zip(*of, strict=True))
            for of in zip(past, own, strict=True)]
    tree, _ = reader.read(tokens(2, 3, seed=2), positions(3, 9), both, causal(1, 3, 9))
    others, _ = reader.read(tokens(4, 2, seed=3), positions(2, 5), past)
    return weighted(tree) + weighted(hidden[:, 2]) + weighted(others, 1)


@pytest.mark.usefixtures("small_blocks")
def test_gradients_of_adapters_are_those_of_the_plain_reader(model):
    model = adapted(model)
    losses = [weighted(make(model).read(tokens(2, 9), positions(9))[0]) for make in (LlamaDecoder, PlainReader)]
    same_losses(*losses)
    same_gradients(*(gradients(model, loss) for loss in losses))


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("each", [True, False])
@pytest.mark.usefixtures("small_blocks")
def test_gradients_flow_through_what_was_read_before(model, each, mask):
    model = adapted(model)
    losses = [read_twice(make(model), 7, each, mask) for make in (LlamaDecoder, PlainReader)]
    same_losses(*losses)
    found, expected = (gradients(model, loss) for loss in losses)
    same_gradients(found, expected)


@pytest.mark.usefixtures("small_blocks")
def test_gradients_flow_through_two_uses_of_the_same_keys(model):
    model = adapted(model)
    losses = [read_three_times(make(model)) for make in (LlamaDecoder, PlainReader)]
    same_losses(*losses)
    same_gradients(*(gradients(model, loss) for loss in losses))


def test_keys_and_values_have_gradients_of_their_own():
    model, losses = adapted(llama()), []
    for make in (LlamaDecoder, PlainReader):
        _, kept = make(model).read(tokens(2, 9), positions(9))
        losses.append(sum(weighted(keys) + weighted(values, 1) for keys, values in kept))
    found, expected = (gradients(model, loss) for loss in losses)
    for name, gradient in found.items():
        if name in expected:
            close(gradient, expected[name], 2e-5)
        else:
            assert not gradient.any(), "the last layer's mix leads to no key"
    assert set(expected) <= set(found)


def test_gradients_add_up_over_micro_batches():
    model = adapted(llama())
    losses = lambda: [read_twice(LlamaDecoder(model), old, False, False) for old in (4, 7)]  # noqa: E731
    together = gradients(model, sum(losses()))
    for loss in losses():
        loss.backward()
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            close(weight.grad, together[name])


# adapters


def reads_like_plain(model, differs_from=None, tolerance=1e-5):
    ids, where = tokens(2, 9), positions(9)
    fast = reader_of(model)
    assert isinstance(fast, LlamaDecoder)
    with torch.no_grad():
        found, expected = fast.read(ids, where)[0], PlainReader(model).read(ids, where)[0]
    close(found, expected, tolerance)
    if differs_from is not None:
        assert (found - differs_from).abs().max() > 0.05
    return found


TWO = {"default": {}, "other": {"r": 5, "lora_alpha": 2, "use_rslora": True}}


def test_the_active_adapter_is_read_and_no_other():
    model = adapted(llama(), TWO)
    first = reads_like_plain(model)
    model.set_adapter("other")
    second = reads_like_plain(model, differs_from=first)
    same_gradients(*(
        gradients(model, weighted(make(model).read(tokens(2, 9), positions(9))[0]))
        for make in (LlamaDecoder, PlainReader)
    ))
    model.base_model.set_adapter(["default", "other"])
    both = reads_like_plain(model, differs_from=second)
    with model.disable_adapter():
        base = reads_like_plain(model, differs_from=both)
    close(base, reads_like_plain(llama()))
    close(reads_like_plain(model), both)


def test_one_reader_follows_the_adapters():
    model = adapted(llama(), TWO)
    reader, plain = LlamaDecoder(model), PlainReader(model)
    read = lambda each: each.read(tokens(2, 9), positions(9))[0]  # noqa: E731
    with torch.no_grad():
        seen = [read(reader)]
        model.set_adapter("other")
        close(read(reader), read(plain))
        seen.append(read(reader))
        with model.disable_adapter():
            close(read(reader), read(plain))
            seen.append(read(reader))
        model.set_adapter("default")
        close(read(reader), seen[0])
    assert min(float((a - b).abs().max()) for a in seen for b in seen if a is not b) > 0.05


def test_an_adapter_that_went_is_not_read():
    model = adapted(llama(), TWO)
    model.set_adapter("other")
    model.delete_adapter("default")
    reads_like_plain(model)


@pytest.mark.parametrize("alpha", [0.5, 3, 40])
def test_the_adapters_scale(alpha):
    reads_like_plain(adapted(llama(), lora_alpha=alpha))


def test_ranks_that_differ_from_layer_to_layer():
    reads_like_plain(adapted(llama(), rank_pattern={"q_proj": 1, "up_proj": 6}, alpha_pattern={"v_proj": 1}))


@pytest.mark.parametrize("targets", [LINEAR, ["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"], ["down_proj"]])
def test_adapters_on_some_layers_only(targets):
    model = adapted(llama(), layers_to_transform=[1], target_modules=targets)
    reads_like_plain(model, differs_from=reads_like_plain(llama()))
    same_gradients(*(
        gradients(model, read_twice(make(model), 5, False, False)) for make in (LlamaDecoder, PlainReader)
    ))


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["v_proj"], ["q_proj"], ["up_proj"], ["k_proj", "down_proj"]])
def test_adapters_on_some_of_the_weights_that_are_read_together(targets):
    model = adapted(llama(), target_modules=targets)
    with torch.no_grad():
        close(*(make(model).read(tokens(2, 9), positions(9))[0] for make in (reader_of, PlainReader)))
    same_gradients(*(gradients(model, read_twice(make(model), 5, False, False)) for make in (reader_of, PlainReader)))


def test_adapters_of_which_one_has_fewer_weights():
    model = adapted(llama(), {"default": {}, "other": {"target_modules": ["q_proj"]}})
    model.set_adapter("other")
    with torch.no_grad():
        close(*(make(model).read(tokens(2, 9), positions(9))[0] for make in (reader_of, PlainReader)))


# the model after it was read


def used(model):
    """After scoring and a step of training."""
    with torch.inference_mode():
        reader_of(model).read(tokens(2, 9), positions(9))
    if any(weight.requires_grad for weight in model.parameters()):
        gradients(model, weighted(reader_of(model).read(tokens(2, 9), positions(9))[0]))
    return model


def held(model):
    """Bytes of the storages of all weights, each counted once."""
    return sum({s.data_ptr(): s.nbytes() for s in (w.untyped_storage() for w in model.parameters())}.values())


def same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


def test_the_models_weights_stay_what_they_are_and_are_held_once(model):
    before = copy.deepcopy(model.state_dict())
    parameters, size = dict(model.named_parameters()), held(model)
    used(model)
    same_weights(model.state_dict(), before)
    assert all(weight is parameters[name] for name, weight in model.named_parameters())
    assert held(model) == size
    with torch.no_grad():
        close(model.get_decoder()(tokens(2, 9)).last_hidden_state, reader_of(model).read(tokens(2, 9), positions(9))[0])


def test_weights_that_lie_together_are_not_copied_again():
    model = used(adapted(llama()))
    attend = model.get_decoder().layers[1].self_attn
    parts = [getattr(attend, name).base_layer.weight for name in ("q_proj", "k_proj", "v_proj")]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 1
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    used(model)
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before
    assert LlamaDecoder(model).layers[1].qkv.weight.data_ptr() == parts[0].data_ptr()


@pytest.mark.parametrize("make", [llama, lambda: qwen2(tie_word_embeddings=True)], ids=["llama", "qwen2, tied"])
def test_what_is_saved_after_use_is_what_was_loaded(make, tmp_path):
    model = make()
    before = copy.deepcopy(model.state_dict())
    used(model).save_pretrained(tmp_path)
    same_weights(AutoModelForCausalLM.from_pretrained(tmp_path).state_dict(), before)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    same_weights(torch.load(tmp_path / "weights.pt"), before)
    same_weights(copy.deepcopy(model).state_dict(), before)


def test_an_adapter_is_saved_and_merged_after_use_as_before(tmp_path):
    untouched, model = adapted(qwen2()), adapted(qwen2())
    used(model).save_pretrained(tmp_path)
    same_weights(PeftModel.from_pretrained(qwen2(), tmp_path).state_dict(), untouched.state_dict())
    merged, expected = model.merge_and_unload(), untouched.merge_and_unload()
    same_weights(merged.state_dict(), expected.state_dict())
    reads_like_plain(merged)


@pytest.mark.parametrize("safe", [True, False])
def test_merging_in_between_and_back(safe):
    model = used(adapted(llama()))
    before = reads_like_plain(model)
    model.merge_adapter(safe_merge=safe)
    with torch.no_grad():
        close(reader_of(model).read(tokens(2, 9), positions(9))[0], before)
    model.unmerge_adapter()
    close(reads_like_plain(model), before)


def test_weights_that_change_are_read_as_they_are():
    model = used(llama())
    before = reads_like_plain(model)
    for weight in model.get_decoder().layers[0].parameters():
        weight.data *= 1.3
    second = reads_like_plain(model, differs_from=before)
    for weight in model.get_decoder().layers[0].parameters():
        weight.data = weight.data / 2
    reads_like_plain(model, differs_from=second)
    reads_like_plain(model.double().float())


def test_a_reader_follows_the_training_of_its_adapter():
    model = adapted(llama())
    reader, optimizer = LlamaDecoder(model), torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01)
    first = reader.read(tokens(2, 9), positions(9))[0]
    weighted(first).backward()
    optimizer.step()
    with torch.no_grad():
        second = reader.read(tokens(2, 9), positions(9))[0]
        close(second, PlainReader(model).read(tokens(2, 9), positions(9))[0])
    assert (second - first).abs().max() > 0.05


def test_a_model_is_trained_after_a_look_in_inference_mode():
    model, fresh = adapted(llama()), adapted(llama())
    with torch.inference_mode():
        looked = LlamaDecoder(model)
        looked.read(tokens(2, 9), positions(9))
        again = LlamaDecoder(model)  # of weights that lie together already
    expected = gradients(fresh, read_twice(PlainReader(fresh), 5, False, True))
    for reader in (LlamaDecoder(model), looked, again, PlainReader(model)):
        same_gradients(gradients(model, read_twice(reader, 5, False, True)), expected)
    model.train()
    found = gradients(model, weighted(model.get_decoder()(tokens(2, 9)).last_hidden_state))
    same_gradients(found, gradients(fresh, weighted(fresh.get_decoder()(tokens(2, 9)).last_hidden_state)))


def test_weights_that_lie_together_can_be_trained_whole():
    model, fresh = used(llama()), llama()
    for each in (model, fresh):
        each.requires_grad_(True)
        gradient = gradients(each, weighted(reader_of(each).read(tokens(2, 9), positions(9))[0]))
        with torch.no_grad():
            for name, weight in each.named_parameters():
                weight -= 0.01 * gradient.get(name, 0)
    for name, weight in model.state_dict().items():
        close(weight, fresh.state_dict()[name])
    reads_like_plain(model.requires_grad_(False))


# bf16


def distances(model, truth, autocast):
    """Of both readers' states of a read behind another to those in float32."""
    def states(make, of):
        past = make(of).read(tokens(1, 20), positions(20))[1]
        return make(of).read(tokens(4, 40, seed=1), positions(40, 20), past)[0].float()

    with torch.no_grad():
        exact = states(PlainReader, truth)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = [states(make, model) for make in (LlamaDecoder, PlainReader)]
    return [float((each - exact).square().mean().sqrt()) for each in found], float(exact.square().mean().sqrt())


@pytest.mark.parametrize("make", [llama, qwen2])
@pytest.mark.parametrize("adapter", [True, False])
def test_in_bf16_it_is_as_exact_as_the_plain_reader(make, adapter, monkeypatch):
    monkeypatch.setattr(attention, "_QUERIES", 16)
    model = make().to(torch.bfloat16)
    truth = make()
    truth.load_state_dict(model.state_dict())
    if adapter:
        model, truth = adapted(model), adapted(truth)  # training casts an adapter's products to bf16
    (fast, plain), size = distances(model, truth, autocast=adapter)
    assert fast <= 1.5 * plain
    assert 0 < fast < 0.1 * size


def test_in_bf16_weights_in_an_order_for_few_tokens_are_as_exact():
    model = llama().to(torch.bfloat16)
    truth = llama()
    truth.load_state_dict(model.state_dict())
    with torch.inference_mode():
        exact = PlainReader(truth).read(tokens(2, 9), positions(9))[0]
        fast, plain = (
            reader.read(tokens(2, 9), positions(9))[0].float() - exact
            for reader in (LlamaDecoder(model, few_tokens=True), PlainReader(model))
        )
    assert 0 < fast.square().mean() <= 1.5**2 * plain.square().mean()


def test_in_bf16_gradients_are_as_exact_as_the_plain_readers():
    model = llama().to(torch.bfloat16)
    truth = llama()
    truth.load_state_dict(model.state_dict())
    model, truth = adapted(model), adapted(truth)

    def found(make, of, autocast):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = read_twice(make(of), 7, False, True)
        return gradients(of, loss)

    exact = found(PlainReader, truth, False)
    fast, plain = found(LlamaDecoder, model, True), found(PlainReader, model, True)
    assert {g.dtype for g in fast.values()} == {torch.float32}, "an adapter is kept in float32"
    distance = lambda of: sum(float((of[name] - g).square().sum()) for name, g in exact.items()) ** 0.5  # noqa: E731
    assert 0 < distance(fast) <= 1.5 * distance(plain)


# which model gets which


class Wrapper(torch.nn.Module):
    """As DistributedDataParallel: its forward has to be called."""

    def __init__(self, module):
        super().__init__()
        self.module, self.calls = module, 0

    def forward(self, *args, **kwargs):
        self.calls += 1
        return self.module(*args, **kwargs)


def test_the_models_of_the_pipeline_get_the_fast_reader(tiny_base, tuned):
    assert isinstance(reader_of(load_adapter(tuned)), LlamaDecoder)
    assert isinstance(reader_of(new_adapter(tiny_base, small_params().lora, 0)), LlamaDecoder)
    base = load_base(tiny_base)
    assert isinstance(reader_of(base.requires_grad_(False)), LlamaDecoder)
    base.requires_grad_(True)
    with torch.inference_mode():
        assert isinstance(reader_of(base), LlamaDecoder)
    assert isinstance(reader_of(base), PlainReader), "weights that train"


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


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_other_models_are_read_by_their_own_forward(make):
    model = make()
    reader = reader_of(model)
    assert isinstance(reader, PlainReader)
    past = reader.read(tokens(1, 5), positions(5))[1]
    found = reader.read(tokens(2, 4, seed=1), positions(4, 5), past)[0]
    whole = torch.cat([tokens(1, 5).expand(2, -1), tokens(2, 4, seed=1)], dim=1)
    close(found, getattr(model, "module", model).get_decoder()(whole).last_hidden_state[:, 5:])
    if isinstance(model, Wrapper):
        assert model.calls == 2


def test_variants_of_lora_are_not_taken_for_it():
    model = adapted(llama(), alora_invocation_tokens=[5], task_type="CAUSAL_LM")
    assert isinstance(reader_of(model), PlainReader)


@pytest.mark.parametrize("config", [
    IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False),
    OFTConfig(oft_block_size=4, target_modules=["q_proj"], init_weights=False),
], ids=["ia3", "oft"])
def test_adapters_of_another_kind_are_not_left_out(config):
    model = get_peft_model(llama(), config).eval()
    with torch.no_grad():
        found = reader_of(model).read(tokens(2, 9), positions(9))[0]
        close(found, model.get_base_model().get_decoder()(tokens(2, 9)).last_hidden_state)
        assert (found - LlamaDecoder(llama()).read(tokens(2, 9), positions(9))[0]).abs().max() > 0.05
