import numpy as np
import pytest
import torch
from torch import nn

from stages.baselines.language.soft import Projector
from stages.model.soft import attach, placeholder
from stages.model import likelihood
from stages.model.likelihood import score
from stages.model.llama import LlamaDecoder
from stages.model.load import load_base, load_tokenizer
from stages.model.reader import PlainReader
from stages.model.readers import make_reader
from tests.model.models import adapted, llama, qwen2

SIZE = 60  # tokens of these models
ORDINARY = [7, 31, 52]  # the tokens whose vectors the soft ones get


class Reserved:
    added_tokens_decoder, unk_token_id, pad_token_id = {}, 3, 1


@pytest.fixture(params=[llama, lambda: llama(tie_word_embeddings=True), qwen2, lambda: adapted(llama())],
                ids=["llama", "tied", "qwen2", "adapted"])
def model(request):
    return request.param()


@pytest.fixture(params=[LlamaDecoder, PlainReader], ids=["fast", "plain"])
def reader(request, monkeypatch):
    monkeypatch.setattr(likelihood, "make_reader", request.param)
    return request.param


def soft(prompts):
    """The same prompts with soft ids in the place of ORDINARY."""
    return [[SIZE + ORDINARY.index(token) if token in ORDINARY else token for token in prompt] for prompt in prompts]


PROMPTS = [[5, 7, 9, 31, 11], [5, 7, 9, 52, 11, 12, 31], [5, 7, 9, 52], [5, 7, 8, 31, 2, 3, 4, 52, 52]]
ANSWERS = [[1, 2], [1, 3, 4], [8, 9]]


def test_a_soft_token_with_an_ordinary_ones_vector_is_that_token(model, reader):
    plain = score(model, PROMPTS, ANSWERS)
    embedding = attach(model, Reserved)
    embedding.source = embedding.weight[ORDINARY].__getitem__
    found = score(model, soft(PROMPTS), ANSWERS)
    np.testing.assert_allclose(found.log_p, plain.log_p, atol=1e-5)
    np.testing.assert_allclose(found.embedding, plain.embedding, atol=1e-5)
    embedding.source = embedding.weight[ORDINARY[::-1]].__getitem__
    assert abs(score(model, soft(PROMPTS), ANSWERS).log_p - plain.log_p).max() > 0.01, "the vectors are read"


def test_without_vectors_a_soft_token_is_the_placeholder(model, reader):
    other = [[Reserved.unk_token_id if token in ORDINARY else token for token in prompt] for prompt in PROMPTS]
    plain = score(model, other, ANSWERS)
    attach(model, Reserved)
    np.testing.assert_allclose(score(model, soft(PROMPTS), ANSWERS).log_p, plain.log_p, atol=1e-5)


def test_the_head_predicts_ordinary_tokens_only_and_stays_tied(model):
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    embedding = attach(model, Reserved)
    assert attach(model, Reserved) is embedding
    assert model.get_output_embeddings().weight is head and len(head) == SIZE
    assert (embedding.weight is head) == tied


@pytest.mark.parametrize("kind", ["fast", "plain"])
def test_gradients_reach_the_projector_only(kind):
    model = llama(tie_word_embeddings=True)
    embedding = attach(model, Reserved)
    projector = Projector(nn.Linear(4, model.config.hidden_size), torch.randn(3, 4), embedding.mean_norm())
    features = torch.randn(3, 4)
    embedding.source = lambda numbers: projector(features[numbers])
    reader = make_reader(model) if kind == "fast" else PlainReader(model)
    assert isinstance(reader, LlamaDecoder if kind == "fast" else PlainReader), "a projector that trains keeps it fast"
    ids = torch.tensor(soft([[5, 7, 9, 31], [5, 2, 7, 31]]))
    hidden, _ = reader.read(ids, torch.arange(4)[None])
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert projector.net.weight.grad.abs().max() > 1e-3
    assert not any(weight is other for weight in projector.parameters() for other in model.parameters())


def test_gradients_are_those_of_the_vectors_themselves():
    """Against the slope between two soft vectors; norms are in float32, so the step cannot be small."""
    model = llama().double()
    embedding = attach(model, Reserved)
    vectors = torch.randn(3, model.config.hidden_size, dtype=torch.float64)
    ids = torch.tensor([[SIZE + 1, 4, SIZE + 1, SIZE]])
    step = torch.zeros_like(vectors)
    step[1, 3] = 1e-3

    def loss(vectors):
        embedding.source = lambda numbers: vectors[numbers]
        return model(ids).logits[0, :, 5].sum()

    vectors.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(vectors), vectors)
    with torch.no_grad():
        slope = (loss(vectors + step) - loss(vectors - step)) / 2e-3
    assert gradient[1, 3].item() == pytest.approx(slope.item(), rel=0.02) and abs(slope) > 0.05
    assert gradient[0].abs().max() > 0 and (gradient[2] == 0).all()


def test_a_soft_id_without_a_vector_is_refused():
    model = llama()
    embedding = attach(model, Reserved)
    embedding.source = torch.zeros(2, model.config.hidden_size).__getitem__
    with pytest.raises(IndexError):
        model(torch.tensor([[1, SIZE + 2]]))
    embedding.source = lambda numbers: torch.zeros(1, model.config.hidden_size)
    with pytest.raises(ValueError, match="2 soft vectors"):
        model(torch.tensor([[SIZE, SIZE + 1]]))


def test_a_projectors_vectors_start_as_long_as_a_tokens():
    features = torch.randn(9, 4) * 100
    found = Projector(nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 6)), features, 0.25)
    assert found(features).norm(dim=-1).mean().item() == pytest.approx(0.25, rel=1e-5)
    assert "scale" in found.state_dict(), "a loaded projector must not be scaled anew"


def test_the_placeholder_is_an_ordinary_token_that_no_text_holds(tiny_base):
    tokenizer = load_tokenizer(tiny_base)
    found = placeholder(tokenizer)
    assert found in tokenizer.all_special_ids and found < len(tokenizer)
    embedding = attach(load_base(tiny_base, torch.float32), tokenizer)
    assert embedding.first == len(tokenizer) and embedding.placeholder == found
