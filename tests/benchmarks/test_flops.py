import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from stages.benchmarks.flops import Shape, scoring, training

RANK, LENGTH = 4, 24


@pytest.fixture
def model():
    """Attention written out, so that PyTorch counts it, all keys of all tokens."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="eager",
    ))


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def whole(causal):
    """Attention's operations where the causal half that nobody needs is computed too."""
    return causal * LENGTH**2 / (LENGTH * (LENGTH + 1) / 2)


def test_a_forward_pass_is_what_pytorch_counts(model):
    ids = torch.randint(0, 96, (1, LENGTH))
    needed = scoring(Shape.of(model), 0, [LENGTH], [[1]])
    got = counted(lambda: model(ids, logits_to_keep=1))
    assert got == needed.linear + whole(needed.attention) + needed.head


def test_lora_training_is_what_pytorch_counts(model):
    shape = Shape.of(model, RANK)
    tuned = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.randint(0, 96, (1, LENGTH))
    got = counted(lambda: tuned(ids, logits_to_keep=5).logits.sum().backward())
    needed = training(shape, 0, 1, [LENGTH], 5)
    assert got == needed.linear + whole(needed.attention) + needed.head


def test_the_convention_in_figures(model):
    shape = Shape.of(model, RANK)
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 48
    assert (shape.linear, shape.linear_first, shape.head) == (3 * layer, 32 * 32 + 2 * 32 * 16, 96 * 32)
    assert shape.adapter == 3 * RANK * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)
    # prefix of 10 once, 5 tokens of one prompt and 7 of the other; two answers share their first token: A, AB
    needed = scoring(shape, 10, [15, 17], [[1, 2, 3], [1, 4]])
    assert needed.linear == 2 * (10 + 5 + 2 + 7 + 2) * shape.linear
    keys = 55 + (50 + 15) + (70 + 28) + (16 + 17) + (18 + 19)
    assert needed.attention == 4 * 32 * 3 * keys
    assert needed.head == 2 * 2 * 3 * shape.head
    # two optimizer steps read the prefix twice
    twice = training(shape, 10, 2, [15, 17, 12], 6)
    once = training(shape, 10, 1, [15, 17, 12], 6)
    assert twice.linear / once.linear == pytest.approx((20 + 14) / (10 + 14))
    assert twice.head == 2 * 2 * 6 * shape.head


def test_the_default_model_has_106_million_weights_in_its_layers():
    config = LlamaConfig(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                         num_attention_heads=9, num_key_value_heads=3)
    with torch.device("meta"):
        assert Shape.of(LlamaForCausalLM(config)).linear == 106_168_320
