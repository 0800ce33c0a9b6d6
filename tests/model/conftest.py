import pytest
import torch

from stages.model import likelihood
from stages.model.llama import LlamaDecoder
from stages.model.load import load_base
from stages.model.reader import PlainReader
from stages.training import dpo_trainer, sequences
from tests.small_log import sft_adapter


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """The dtype in which numbers are compared."""
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture(scope="session")
def sharp_model(tiny_base):
    """The tiny model with larger weights: what it reads, and where, moves its probabilities by much."""
    model = load_base(tiny_base, torch.float32)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            weight.data *= 4 if "embed" in name else 8
    return model.eval()


@pytest.fixture(scope="session")
def tuned(tiny_base, tmp_path_factory):
    """A folder as `models/sft`, whose adapter is not 0."""
    return sft_adapter(tiny_base, tmp_path_factory.mktemp("models") / "sft")


@pytest.fixture(params=[LlamaDecoder, PlainReader], ids=["fast", "plain"])
def reader(request, monkeypatch):
    """Each reader in turn, wherever one is chosen."""
    for module in (likelihood, sequences, dpo_trainer):
        monkeypatch.setattr(module, "make_reader", request.param)
    return request.param


@pytest.fixture
def reads(reader, monkeypatch):
    """Shapes (rows, tokens) of all that is read, in order."""
    shapes, read = [], reader.read

    def spy(self, ids, *args, **kwargs):
        shapes.append(tuple(ids.shape))
        return read(self, ids, *args, **kwargs)

    monkeypatch.setattr(reader, "read", spy)
    return shapes
