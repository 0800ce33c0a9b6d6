"""How many steps the model of habits takes, and that memory has a bound whatever the number of behaviours is."""

import numpy as np
import pytest
import torch

from stages.past import fitting
from stages.past.fitting import fit
from stages.past.network import Batch, Network, Sums
from stages.windows.past import NONE, Past
from tests.past.people import two_kinds_of_people
from tests.past.test_habits import SETTINGS


real = fitting.Validations


@pytest.mark.parametrize(("steps", "validations", "expected"), [(10, 4, [2, 5, 7, 10]), (3, 8, [1, 2, 3])])
def test_every_step_is_taken(monkeypatch, steps, validations, expected):
    events, windows, vocabulary = two_kinds_of_people()
    kept = []
    monkeypatch.setattr(fitting, "Validations", lambda patience: kept.append(real(patience)) or kept[0])
    settings = SETTINGS.model_copy(update={"steps": steps, "validations": validations, "patience": 9})
    fit(Past.from_tables(events, vocabulary), windows, vocabulary, settings, 0)
    assert list(kept[0].values) == expected


def test_no_array_has_more_cells_than_its_bound(monkeypatch):
    events, windows, vocabulary = two_kinds_of_people()
    sizes = {}

    def noting(name, function, cells):
        def noted(*args):
            sizes[name] = max(sizes.get(name, 0), cells(args))
            return function(*args)

        return noted

    for name, cells in (("_CELLS", 500), ("_VALID_CELLS", 250), ("_SAMPLE_CELLS", 100), ("_CELLS_AT_ONCE", 40)):
        monkeypatch.setattr(fitting, name, cells)
    monkeypatch.setattr(Network, "forward", noting("read", Network.forward, lambda args: args[1].allowed.numel()))
    monkeypatch.setattr(Network, "standardise", noting("sample", Network.standardise,
                                                       lambda args: args[1][..., 0].numel()))
    monkeypatch.setattr(Batch, "empty", noting("train", Batch.empty, lambda args: args[0] * args[1]))
    _, facts = fit(Past.from_tables(events, vocabulary), windows, vocabulary, SETTINGS, 0)
    size = vocabulary.height
    assert facts["trained_targets"] == 500 // size
    assert sizes == {"read": 40 // size * size, "sample": 100 // size * size, "train": 500 // size * size}


def test_a_batch_in_parts_has_the_same_loss_and_gradients(monkeypatch):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    network = Network(4, 11, 5, 8)
    for weight in network.parameters():
        weight.data.normal_(0, 0.5)
    label = rng.integers(0, 5, 13)
    label[:4] = NONE
    batch = Batch(torch.from_numpy(rng.normal(size=(13, 5, 4))).half(),
                  torch.from_numpy(np.stack([rng.integers(0, 6, 13), rng.integers(6, 11, 13)], axis=1)),
                  torch.ones(13, 5, dtype=torch.bool), torch.from_numpy(rng.random((13, 5)) < 0.2),
                  torch.from_numpy(label))
    found = []
    for cells in (1000, 20, 1):
        monkeypatch.setattr(fitting, "_CELLS_AT_ONCE", cells)
        losses = list(fitting._losses(network, batch))
        network.zero_grad()
        sum(losses).backward()
        found.append([sum(losses).detach(), *(weight.grad for weight in network.parameters())])
    plain = fitting._loss(network(batch), batch.label)
    for values in found:
        torch.testing.assert_close(values[0], plain.detach())
        for one, other in zip(values, found[0], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_sums_have_the_gradients_of_pytorchs_own():
    torch.manual_seed(0)
    network, bag = Network(4, 30, 6, 8), torch.nn.EmbeddingBag(30, 6, mode="sum")
    bag.weight.data.copy_(network.moment.weight.data)
    number = torch.stack([torch.randint(10 * column, 10 * column + 10, (50,)) for column in range(3)], dim=1)
    worth = torch.randn(50, 6)
    for sums in (bag(number), Sums.apply(number, network.moment.weight)):
        (sums * worth).sum().backward()
    torch.testing.assert_close(network.moment.weight.grad, bag.weight.grad)
