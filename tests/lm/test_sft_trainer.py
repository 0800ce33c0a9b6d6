import polars as pl
import pytest
import torch
from trl import SFTConfig, SFTTrainer

from stages.common import tables
from stages.lm.load import load_adapter, load_tokenizer
from stages.lm.sft_trainer import IGNORED, SeededByLength, SequenceTrainer, labelled
from stages.lm.training import arguments
from tests.small_log import small_params


def sequences(*rows):
    return pl.DataFrame(rows, schema=tables.SCHEMAS["instructions"], orient="row")


# history, prompt, an anchor's answer (0), a tail's answer (4); one with a tail's answer only; one without any
STREAM = ([10, 11, 12, 13, 14, 15, 16, 17], [2, 6], [4, 8], [0, 4])
TAIL = ([20, 21, 22], [1], [3], [4])
CHAT = ([30, 31, 32, 33, 34, 35], [2, 5], [3, 6], [-1, -1])
EMPTY = ([40, 41], [], [], [])


def test_labels_stand_exactly_on_the_spans_that_are_trained_on():
    _ = IGNORED
    found = labelled(sequences(STREAM, CHAT), [0])
    assert found["input_ids"] == [STREAM[0]] and found["length"] == [8]
    assert found["labels"] == [[_, _, 12, 13, _, _, _, _]], "a tail's answer stays as history, unlabelled"
    assert labelled(sequences(STREAM), [0, 4])["labels"] == [[_, _, 12, 13, _, _, 16, 17]]
    assert labelled(sequences(STREAM), [4])["labels"] == [[_, _, _, _, _, _, 16, 17]]
    assert labelled(sequences(CHAT), [-1])["labels"] == [[_, _, 32, _, _, 35]]


def test_sequences_without_a_label_are_dropped():
    assert labelled(sequences(TAIL, STREAM, EMPTY, CHAT), [0, 1, 2])["input_ids"] == [STREAM[0]]
    assert len(labelled(sequences(TAIL, EMPTY), [0])) == 0
    assert labelled(sequences(TAIL, STREAM, EMPTY, CHAT), [4])["input_ids"] == [TAIL[0], STREAM[0]]


@pytest.fixture
def trainers(tuned, tmp_path):
    """Ours and TRL's, of the same model and data."""
    torch.manual_seed(0)
    rows = [(torch.randint(3, 400, (length,)).tolist(), [length - 5, length - 2], [length - 3, length], [0, 1])
            for length in (9, 30, 17, 6)]
    data, params = labelled(sequences(*rows), [0, 1]), small_params(sft__batch_size=4)
    config = SFTConfig(**arguments(params.sft, 4, tmp_path, 0, 4), dataset_kwargs={"skip_prepare_dataset": True})
    same = {"args": config, "train_dataset": data, "eval_dataset": data, "processing_class": load_tokenizer(tuned)}
    return SequenceTrainer(model=load_adapter(tuned), schedule=params.sft, **same), SFTTrainer(
        model=load_adapter(tuned), **same
    )


def loss_and_gradients(trainer, items):
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
    loss.backward()
    return loss.item(), {
        name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad
    }


@pytest.mark.parametrize("items", [None, torch.tensor(50)])
def test_the_loss_and_its_gradients_are_those_of_trl(trainers, items):
    (mine, my_gradients), (theirs, their_gradients) = (loss_and_gradients(trainer, items) for trainer in trainers)
    assert mine == pytest.approx(theirs, abs=1e-5)
    assert my_gradients.keys() == their_gradients.keys()
    largest = 0.0
    for name, gradient in my_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[name], atol=1e-5, rtol=0)
        largest = max(largest, float(gradient.abs().max()))
    assert largest > 1e-2, "gradients that say something"


def test_the_loss_is_the_mean_over_labelled_tokens_alone(trainers):
    trainer, _ = trainers
    batch = next(iter(trainer.get_train_dataloader()))
    expected = []
    with torch.no_grad():
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            log_p = trainer.model(ids[None]).logits[0].log_softmax(dim=-1)
            expected += [-log_p[at - 1, label] for at, label in enumerate(labels.tolist()) if label != IGNORED]
        found = trainer.compute_loss(trainer.model, dict(batch)).item()
    assert found == pytest.approx(float(torch.stack(expected).mean()))
    assert len(expected) == 4 * (2 + 2)


def test_a_batch_without_a_label_has_no_loss(trainers):
    trainer, _ = trainers
    batch = next(iter(trainer.get_train_dataloader()))
    batch["labels"] = torch.full_like(batch["labels"], IGNORED)
    assert trainer.compute_loss(trainer.model, batch).item() == 0


def test_the_order_of_the_sequences_follows_from_seed_and_epoch_alone():
    lengths = torch.randint(1, 100, (50,), generator=torch.Generator().manual_seed(0)).tolist()

    def order(seed, epoch):
        torch.rand(3)
        sampler = SeededByLength(4, lengths, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 1) == order(0, 1) and sorted(order(0, 1)) == list(range(50))
    assert len({tuple(order(seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    batches = [order(0, 0)[start : start + 4] for start in range(0, 48, 4)]
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert sum(spread) / len(spread) < 45, "batches of like length are padded less"
