"""What becomes of a model that was read, and how exact bf16 is."""

import copy

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from stages.model import attention
from stages.model.llama import LlamaDecoder
from stages.model.reader import PlainReader
from stages.model.readers import make_reader
from tests.model.models import (  # noqa: F401  (fixtures)
    adapted, close, gradients, llama, model, positions, qwen2, read_twice, reads_like_plain, same_gradients, tokens,
    weighted,
)


def used(model):
    """After scoring and a step of training."""
    with torch.inference_mode():
        make_reader(model).read(tokens(2, 9), positions(9))
    if any(weight.requires_grad for weight in model.parameters()):
        gradients(model, weighted(make_reader(model).read(tokens(2, 9), positions(9))[0]))
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
        found = make_reader(model).read(tokens(2, 9), positions(9))[0]
        close(model.get_decoder()(tokens(2, 9)).last_hidden_state, found)


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
        close(make_reader(model).read(tokens(2, 9), positions(9))[0], before)
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
        gradient = gradients(each, weighted(make_reader(each).read(tokens(2, 9), positions(9))[0]))
        with torch.no_grad():
            for name, weight in each.named_parameters():
                weight -= 0.01 * gradient.get(name, 0)
    for name, weight in model.state_dict().items():
        close(weight, fresh.state_dict()[name])
    reads_like_plain(model.requires_grad_(False))


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


@pytest.mark.skipif(not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
                    reason="this CPU has no bf16 in oneDNN")
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
