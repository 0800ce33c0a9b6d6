"""Adapters and their gradients: as the plain reader's."""

import pytest
import torch

from stages.model.llama import LlamaDecoder
from stages.model.reader import PlainReader
from stages.model.readers import make_reader
from tests.model.models import (  # noqa: F401  (fixtures)
    LINEAR, adapted, close, gradients, llama, model, positions, read_three_times, read_twice, reads_like_plain,
    same_gradients, same_losses, small_blocks, tokens, weighted,
)


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


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], ["v_proj"], ["q_proj"], ["up_proj"], ["k_proj", "down_proj"]]
)
def test_adapters_on_some_of_the_weights_that_are_read_together(targets):
    model = adapted(llama(), target_modules=targets)
    with torch.no_grad():
        close(*(make(model).read(tokens(2, 9), positions(9))[0] for make in (make_reader, PlainReader)))
    same_gradients(*(gradients(model, read_twice(make(model), 5, False, False)) for make in (make_reader, PlainReader)))


def test_adapters_of_which_one_has_fewer_weights():
    model = adapted(llama(), {"default": {}, "other": {"target_modules": ["q_proj"]}})
    model.set_adapter("other")
    with torch.no_grad():
        close(*(make(model).read(tokens(2, 9), positions(9))[0] for make in (make_reader, PlainReader)))
