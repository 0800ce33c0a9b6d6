from types import SimpleNamespace

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PhiConfig, PhiForCausalLM
from trl import SFTConfig, SFTTrainer

from stages.common import tables
from stages.common.errors import UserError
from stages.model.fused import TargetLoss
from stages.model.load import load_adapter, load_tokenizer
from stages.training import sequences as reading
from stages.training.adjustment import NO_NODE, LogitAdjustment
from stages.training.sequences import IGNORED, collate, labelled, labelled_states, shared_beginning
from stages.training.sft_trainer import SeededByLength, SequenceTrainer
from stages.training.trainer import arguments
from tests.small_log import small_params


def sequences(*rows):
    numbered = [(*row, list(range(len(row[3])))) for row in rows]
    return pl.DataFrame(numbered, schema=tables.SCHEMAS["instructions"], orient="row")


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


def vocabulary(shares):
    return pl.DataFrame({
        "behavior": [f"b{number}" for number in range(len(shares))], "train_events": 1, "share": shares,
        "group": "head", "is_anchor": True,
    }).cast(tables.SCHEMAS["vocabulary"])


def test_nodes_stand_beside_the_labels_of_behaviours_alone():
    train = sequences(STREAM, ([50, 12, 18], [1], [3], [1]), ([50, 19, 12], [1], [3], [2]))
    adjustment = LogitAdjustment.of(train, vocabulary([0.6, 0.3, 0.05, 0.04, 0.01]), [0, 1, 2], 1.0)
    root, second = adjustment.numbers[()], adjustment.numbers[(12,)]
    _ = NO_NODE
    found = labelled(train, [0, 1, 2], adjustment)
    assert found["nodes"] == [[_, _, root, second, _, _, _, _], [_, root, second], [_, root, _]]
    assert found["labels"] == labelled(train, [0, 1, 2])["labels"]
    assert labelled(sequences(CHAT), [-1], adjustment)["nodes"] == [[_] * 6]
    assert "nodes" not in labelled(train, [0]).column_names
    other = sequences(([50, 19, 12], [1], [3], [0]))
    with pytest.raises(UserError, match=r"'b0' has the tokens \[12, 13\] in one target and \[19, 12\] in another"):
        labelled(other, [0], adjustment)


def test_the_collator_pads_nodes_as_it_does_labels():
    examples = [
        {"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7], "nodes": [NO_NODE, 0, 3]},
        {"input_ids": [5], "labels": [5], "nodes": [1]},
    ]
    batch = collate(examples)
    assert batch["nodes"].tolist() == [[NO_NODE, 0, 3], [1, NO_NODE, NO_NODE]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [5, IGNORED, IGNORED]]
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 0, 0]] and batch["nodes"].dtype == torch.int64


# what the first rows of a batch begin with, and what the last one begins with: a conversation
BEGINNINGS = {"rows of their own": (0, 0), "rows that begin alike": (40, 40), "and a conversation": (40, 0)}


@pytest.fixture(params=BEGINNINGS)
def trainers(request, tuned, tmp_path, reader):
    """Ours and TRL's, of the same model and data."""
    torch.manual_seed(0)
    beginning, rows = torch.randint(3, 400, (40,)).tolist(), []
    for length, shared in zip((9, 30, 17, 6), [BEGINNINGS[request.param][0]] * 3 + [BEGINNINGS[request.param][1]],
                              strict=True):
        row = beginning[:shared] + torch.randint(3, 400, (length,)).tolist()
        rows.append((row, [len(row) - 5, len(row) - 2], [len(row) - 3, len(row)], [0, 1]))
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


@pytest.mark.parametrize("conversation", [False, True])
def test_the_adjusted_loss_and_its_gradients_are_those_of_shifted_logits(
    tuned, tmp_path, reader, conversation
):
    torch.manual_seed(0)
    beginning, last, rows = torch.randint(3, 400, (40,)).tolist(), 401, []
    answers = [[402, last], [403, last], [403, 404, last]]
    for number, length in enumerate((9, 30, 17)):
        row = beginning + torch.randint(3, 400, (length,)).tolist() + answers[number]
        rows.append((row, [len(row) - len(answers[number])], [len(row)], [number]))
    train, shares = sequences(*rows), [0.8, 0.15, 0.05]
    chat = sequences(([7, 8, *answers[2]], [2], [5], [-1]))
    adjustment = LogitAdjustment.of(train, vocabulary(shares), [0, 1, 2], 1.5)
    data = labelled(pl.concat([train, chat]) if conversation else train, [0, 1, 2, -1], adjustment)
    params = small_params(sft__batch_size=4)
    trainer = SequenceTrainer(
        model=load_adapter(tuned), schedule=params.sft, train_dataset=data, eval_dataset=data, adjustment=adjustment,
        processing_class=load_tokenizer(tuned),
        args=SFTConfig(**arguments(params.sft, 4, tmp_path, 0, 4), dataset_kwargs={"skip_prepare_dataset": True}),
    )
    found, gradients = loss_and_gradients(trainer, None)
    model, expected = load_adapter(tuned), []
    # mean shares of the labels below a child and below its node: 1/3 at the root, 0.1 behind 403
    first = {402: 0.8 * 3, 403: 0.2 / 2 * 3}, {403: {last: 0.15 / 0.1, 404: 0.05 / 0.1}}
    for row, (start,), _, (number,), *_ in [*rows, *([chat.row(0)] if conversation else [])]:
        for at in range(start, len(row)):
            logits = model(torch.tensor([row])).logits[0, at - 1].float()
            children = first[0] if at == start else first[1].get(row[at - 1], {}) if at == start + 1 else {}
            if number >= 0:
                for token, odds in children.items():
                    logits = logits + 1.5 * torch.log(torch.tensor(odds)) * torch.eye(len(logits))[token]
            expected.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row[at])))
    loss = torch.stack(expected).mean()
    loss.backward()
    assert found == pytest.approx(loss.item(), abs=1e-5)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            torch.testing.assert_close(gradients[name], weight.grad, atol=1e-5, rtol=1e-4)
    evaluated = trainer.evaluate()["eval_loss"]
    parts = [[expected.pop(0).item() for _ in answer] for answer in answers + [answers[2]] * conversation]
    assert evaluated == pytest.approx(sum(sum(part) / len(part) for part in parts) / len(parts), abs=1e-5)


def test_a_batch_without_a_label_has_no_loss(trainers):
    trainer, _ = trainers
    batch = next(iter(trainer.get_train_dataloader()))
    batch["labels"] = torch.full_like(batch["labels"], IGNORED)
    assert trainer.compute_loss(trainer.model, batch).item() == 0
    batch["input_ids"] = batch["input_ids"][:1].repeat(4, 1)
    assert trainer.compute_loss(trainer.model, batch).item() == 0, "nor one of the same row again and again"


@pytest.mark.parametrize("trainers", ["and a conversation"], indirect=True)
def test_what_rows_begin_with_is_read_once_for_all(trainers, reads):
    trainer, _ = trainers
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(trainer.model, dict(batch))
    # of the longest row's own 30 tokens the last one is a label and only ever predicted
    assert reads == [(1, 40), (3, 30 - 1), (1, 6 - 1)]


def padded(*rows):
    """Token ids and labels (B, S) of (ids, positions of labels)."""
    size = max(len(ids) for ids, _ in rows)
    ids, labels = torch.full((len(rows), size), 2), torch.full((len(rows), size), IGNORED)
    for at, (row, places) in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        labels[at, list(places)] = torch.tensor(row)[list(places)]
    return ids, labels


LONG = list(range(100, 130))
ROWS = {
    "two that begin alike": ([(LONG + [5, 6, 7], [31, 32]), (LONG + [8, 9], [31])], [0, 1], 30),
    "of different lengths": ([(LONG[:20] + [5, 6], [21]), (LONG + [8, 9], [31])], [0, 1], 20),
    "a conversation among them":
        ([(LONG + [5, 6], [31]), ([9] + LONG, [3, 4]), (LONG + [7, 8, 9], [31, 32])], [0, 2], 30),
    "a conversation first": ([([9] + LONG, [3]), (LONG + [5, 6], [31]), (LONG + [7, 8], [31])], [1, 2], 30),
    "an early label": ([(LONG + [5, 6], [21, 31]), (LONG + [7, 8], [31])], [0, 1], 20),
    "a label right behind": ([(LONG + [5, 6], [30, 31]), (LONG + [7, 8], [31])], [0, 1], 29),
    "labels too early to share": ([(LONG + [5], [10, 30]), (LONG + [7, 8], [31])], [], 0),
    "one whose label is too early":
        ([(LONG + [5], [10, 30]), (LONG + [7, 8], [31]), (LONG + [9], [30])], [1, 2], 29),
    "a label on the first token": ([(LONG + [5, 6], [0, 31]), (LONG + [7], [30]), (LONG + [8], [30])], [1, 2], 29),
    "the same row again": ([(LONG, [29])] * 3, [0, 1, 2], 28),
    "a single row": ([(LONG + [5, 6], [31])], [], 0),
    "too little alike": ([(LONG[:15] + [5, 6], [16]), (LONG[:15] + [7, 8], [16])], [], 0),
    "just enough alike": ([(LONG[:16] + [5, 6], [17]), (LONG[:16] + [7, 8], [17])], [0, 1], 16),
    "only conversations": ([(list(range(at, at + 25)), [20, 24]) for at in (10, 50, 90)], [], 0),
    "two beginnings: most rows win": (
        [(LONG + [5, 6], [31]), (LONG[::-1] + [5, 6], [31]), (LONG[::-1] + [7, 8], [31]), (LONG[::-1] + [9, 8], [31])],
        [1, 2, 3], 30,
    ),
}


@pytest.mark.parametrize(("rows", "members", "size"), ROWS.values(), ids=ROWS.keys())
def test_rows_share_what_they_begin_with_before_any_label(rows, members, size):
    found, shared = shared_beginning(*padded(*rows))
    assert found.dtype == torch.bool and found.shape == (len(rows),)
    assert (found.nonzero().flatten().tolist(), shared) == (members, size)


@pytest.mark.parametrize(("rows", "members", "size"), ROWS.values(), ids=ROWS.keys())
def test_states_before_the_labels_are_those_of_each_row_alone(tuned, reader, rows, members, size):
    model = load_adapter(tuned).eval()
    ids, marks = padded(*rows)
    states, found = labelled_states(reader(model), ids, marks)
    expected, labels = [], []
    others = [at for at in range(len(rows)) if at not in members]
    for row, places in (rows[at] for at in [*members, *others]):
        hidden = model.get_decoder()(torch.tensor([row])).last_hidden_state[0]
        expected += [hidden[place - 1] for place in places if place]
        labels += [row[place] for place in places if place]
    assert marks.flatten()[found].tolist() == labels
    torch.testing.assert_close(states, torch.stack(expected), atol=2e-5, rtol=0)


@st.composite
def batches(draw):
    """Rows of which some begin alike, with labels anywhere behind their first token."""
    token, rows = st.integers(3, 400), []
    beginnings = [draw(st.lists(token, min_size=2, max_size=10)) for _ in range(2)]
    for _ in range(draw(st.integers(1, 5))):
        beginning = draw(st.sampled_from(beginnings))
        row = beginning[: draw(st.integers(1, len(beginning)))] + draw(st.lists(token, min_size=1, max_size=6))
        places = st.lists(st.integers(1, len(row) - 1), min_size=1, max_size=4, unique=True)
        rows.append((row, draw(places.map(sorted))))
    return padded(*rows)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(batch=batches())
def test_sharing_changes_neither_states_nor_loss_nor_gradients(tuned, reader, batch):
    ids, labels = batch
    model = load_adapter(tuned).eval()
    head = model.get_output_embeddings()
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_WORTH_SHARING", 2)
        members, size = shared_beginning(ids, labels)
        for share in (True, False):
            states, places = labelled_states(reader(model), ids, labels, share)
            targets = labels.flatten()[places]
            loss = TargetLoss.apply(states, head.weight, head.bias, targets)
            model.zero_grad()
            loss.backward()
            found.append((states.detach(), places, loss.item(), {
                name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad
            }))
    (states, places, loss, gradients), (plain_states, plain_places, plain_loss, plain_gradients) = found
    row = (labels[:, 1:] != IGNORED).nonzero()[:, 0]
    order = torch.cat([members[row].nonzero(), (~members[row]).nonzero()]).flatten()
    assert places.tolist() == plain_places[order].tolist() and len(places) == (labels[:, 1:] != IGNORED).sum()
    assert plain_places.tolist() == [at for at in range(labels.numel()) if at % labels.shape[1]
                                     and labels.flatten()[at] != IGNORED]
    torch.testing.assert_close(states, plain_states[order], atol=2e-5, rtol=0)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, plain_gradients[name], atol=2e-5 * max(1, float(plain_gradients[name].abs().max())), rtol=0
        )
    if members.any():
        assert members.sum() > 1 and size >= 2
        assert len({tuple(each) for each in ids[members, :size].tolist()}) == 1
        assert (labels[members, : size + 1] == IGNORED).all(), "the state before a label belongs to its row"


@pytest.mark.parametrize("bias", [False, True])
def test_the_loss_is_that_of_the_models_own_logits(bias):
    torch.manual_seed(0)
    model = PhiForCausalLM(PhiConfig(
        vocab_size=60, hidden_size=32, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4,
    )).eval()
    model.lm_head.bias.data.normal_(std=float(bias))
    ids = torch.randint(0, 60, (2, 9))
    labels = ids.clone().index_fill_(1, torch.arange(5), IGNORED)
    alone = SimpleNamespace(adjustment=None, accelerator=SimpleNamespace(num_processes=1))
    with torch.no_grad():
        found = SequenceTrainer.compute_loss(alone, model, {"input_ids": ids, "labels": labels})
        assert found.item() == pytest.approx(model(input_ids=ids, labels=labels).loss.item(), abs=1e-5)


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
