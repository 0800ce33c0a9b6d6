import gzip

import numpy as np
import pytest
import torch

from stages.baselines.research import beauty
from stages.baselines.research.beauty import ManyItems, hit_rate_and_ndcg, item_softmax, ranks, read_log
from stages.baselines.sequential.objectives import cross_entropy
from stages.baselines.sequential.sasrec import SASRec
from stages.common.device import device
from stages.common.errors import UserError


@pytest.fixture
def path(tmp_path):
    """Users who walk round a ring of 30 items, one after the next, from where they please."""
    rng, lines = np.random.default_rng(0), []
    for user in range(1, 241):
        start = rng.integers(30)
        lines += [f"{user} {1 + (start + step) % 30}" for step in range(rng.integers(4, 12))]
    file = tmp_path / "ring.txt.gz"
    file.write_bytes(gzip.compress("\n".join(["7000 1", "7000 2", *lines]).encode()))
    return file


def run(monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["beauty", *map(str, args)])
    beauty.main()


def test_reads_the_last_as_test_and_the_last_but_one_as_validation(path):
    log = read_log(path, length=6)
    assert len(log.test) == 240 and (log.test - log.valid == 1).all() and log.sequences.size == 30
    train = log.sequences.train_rows()
    assert not set(train) & {*log.valid, *log.test, *log.first}
    assert len(train) + len(log.valid) + len(log.test) + 240 == len(log.item)
    row = log.test[0]
    batch = log.sequences.windows(np.array([row]))
    assert batch.behavior[0, ~batch.padding[0]].tolist() == log.item[max(log.first[row], row - 6) : row].tolist()
    assert batch.label[0, -1] == log.item[row]


@pytest.mark.parametrize("objective", ["bce", "ce"])
def test_the_lean_losses_are_those_of_the_project(path, objective):
    log = read_log(path, length=6)
    torch.manual_seed(0)
    model = ManyItems(log.sequences, {**beauty.SETTINGS, "dropout": 0.0}, "id", objective).to(device())
    batch = next(log.sequences.epoch(150, np.random.default_rng(0))).to(device())
    found = []
    for loss in (ManyItems.loss, SASRec.loss):
        model.zero_grad()
        value = loss(model, batch, torch.Generator().manual_seed(0))
        value.backward()
        found.append((value.item(), [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(one, other, atol=1e-6) and other.abs().sum() > 0


def test_the_softmax_in_blocks_has_the_gradients_of_the_softmax(monkeypatch):
    monkeypatch.setattr(beauty, "_LOSS_ROWS", 7)
    hidden, items = torch.randn(40, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True)
    label = torch.randint(11, (40,))
    lean = torch.autograd.grad(item_softmax(hidden, items, label) * 3, (hidden, items))
    plain = torch.autograd.grad(cross_entropy(hidden @ items.T, label) * len(label) * 3, (hidden, items))
    for one, other in zip(lean, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_an_items_rank_is_among_those_its_user_had_not_and_ties_count_against_it(path):
    log = read_log(path, length=6)
    model = ManyItems(log.sequences, beauty.SETTINGS, "id", "ce").to(device())
    row = log.test[0]
    seen = log.item[log.first[row] : row]
    with torch.no_grad():
        batch = log.sequences.windows(np.array([row])).to(device())
        scores = model.eval().embedder.scores(model.encoder(model.embedder(batch), batch.padding)[0, -1]).cpu().numpy()
    others = [i for i in range(30) if i not in seen]
    assert log.item[row] in others and len(seen) >= 3
    assert ranks(model, log, np.array([row]))[0] == (scores[others] >= scores[log.item[row]]).sum()
    for weight in model.embedder.parameters():
        torch.nn.init.zeros_(weight)
    assert ranks(model, log, np.array([row]))[0] == len(others)


def test_hit_rate_and_ndcg_of_known_ranks():
    rate, gain = hit_rate_and_ndcg(np.array([1, 3, 10, 11]))
    assert rate == 0.75 and gain == pytest.approx((1 + 1 / 2 + 1 / np.log2(11)) / 4)


@pytest.mark.parametrize("objective", ["bce", "ce"])
def test_learns_the_ring_from_the_command_line(path, monkeypatch, capsys, objective):
    monkeypatch.setattr(beauty, "RATE", 0.01)
    run(monkeypatch, "--data", path, "--objective", objective, "--epochs", 8)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [f"{objective} HR@10", f"{objective} NDCG@10"]
    # one of some twenty unseen items is right; by chance NDCG@10 is below .25
    assert float(printed[1].split()[2]) > (0.9 if objective == "ce" else 0.4)


def test_without_the_file_it_is_skipped_and_a_faulty_one_is_refused(path, monkeypatch, capsys, tmp_path):
    run(monkeypatch, "--data", tmp_path / "absent.txt")
    assert "skipped" in capsys.readouterr().err
    for number, text in enumerate(["1 2 3\n1 3 4\n1 4 5\n", "a b\n", "1 2\n1 3\n"]):
        (tmp_path / f"{number}.txt").write_text(text)
        with pytest.raises(UserError, match=f"{number}.txt"):
            run(monkeypatch, "--data", tmp_path / f"{number}.txt")
