import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.past.network import Batch, Network
from stages.past.weights import Inputs


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 5), st.integers(0, 3))
def test_without_pytorch_it_is_the_same_network(seed, windows, size, spare):
    rng, features, moments = np.random.default_rng(seed), 7, 11
    torch.manual_seed(seed)
    network = Network(features, moments, size, 8)
    for weight in network.parameters():
        weight.data.normal_(0, 0.5)
    numbers = rng.normal(3, 2, (windows, size + spare, features)).astype(np.float32)
    network.standardise(torch.from_numpy(rng.normal(3, 2, (50, 2, features)).astype(np.float32)))
    outside = np.arange(size + spare) >= size
    inputs = Inputs(
        numbers, rng.integers(0, moments, (windows, 3)).astype(np.int32), rng.random(numbers.shape[:2]) < 0.7,
        outside | (rng.random(numbers.shape[:2]) < 0.2), np.zeros(windows, np.int32),
    )
    inputs.allowed[:, 0] = True
    with torch.inference_mode():
        expected = network(Batch.of(inputs)).numpy()
    found = network.weights().log_p(inputs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)
