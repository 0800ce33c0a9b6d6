import pytest
import torch

from stages.lm.load import load_base
from tests.small_log import a_tuned


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
    return a_tuned(tiny_base, tmp_path_factory.mktemp("models") / "sft")
