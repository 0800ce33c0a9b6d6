from collections import Counter

import pytest

from stages.benchmarks import sft
from stages.benchmarks.data import labels_among, stretches
from stages.benchmarks.machine import peak
from stages.training.sequences import IGNORED, labelled


def answers_in(dataset):
    """How often each answer is trained on, as its tokens."""
    found = Counter()
    for ids, labels in zip(dataset["input_ids"], dataset["labels"], strict=True):
        assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
        runs, run = [], []
        for label in [*labels, IGNORED]:
            if label != IGNORED:
                run.append(label)
            elif run:
                runs.append(tuple(run))
                run = []
        found.update(runs)
    return found


@pytest.fixture
def rows(material):
    return stretches(material, 30, 0)


@pytest.mark.parametrize("packing", [False, True])
def test_both_sides_train_on_the_same_labels(material, rows, tmp_path, packing):
    ours = sft.our_trainer(material, sft.our_sequences(material, rows), tmp_path, [])
    windows = sft.their_windows(material, labels_among(material, rows))
    theirs = sft.their_trainer(material, windows, packing, 2, tmp_path, [])
    names, paper = ({tuple(answer): name for name, answer in zip(layout.candidates, layout.answers, strict=True)}
                    for layout in (material.stream, material.window))
    mine = Counter({names[run]: count for run, count in answers_in(ours.train_dataset).items()})
    packed = Counter({paper[run]: count for run, count in answers_in(theirs.train_dataset).items()})
    assert mine == packed
    assert mine.total() == len(windows) == sft.count_targets(material, sft.our_sequences(material, rows))
    assert set(mine) == {material.stream.candidates[number] for number in material.trained}


def test_both_sides_train_the_same_adapter(material, rows, tmp_path):
    windows = sft.their_windows(material, labels_among(material, rows)[:4])
    ours = sft.our_trainer(material, sft.our_sequences(material, rows), tmp_path, [])
    theirs = sft.their_trainer(material, windows, False, 2, tmp_path, [])
    assert {name: weight.shape for name, weight in ours.model.named_parameters() if weight.requires_grad} == {
        name: weight.shape for name, weight in theirs.model.named_parameters() if weight.requires_grad
    }
    assert ours.args.learning_rate == theirs.args.learning_rate and ours.args.bf16 == theirs.args.bf16
    assert not theirs.args.activation_checkpointing and theirs.args.gradient_accumulation_steps == 4


def test_operations_of_a_pass(material, rows):
    sequences = sft.our_sequences(material, rows)
    data = labelled(sequences, material.trained)
    prefix = sft.shared_prefix(data["input_ids"])
    assert prefix >= len(material.stream.prefix)
    needed, half = sft.needed_flops(material, sequences), sft.needed_flops(material, sequences[:4])
    assert 0 < half.total < needed.total and needed.linear < needed.total
    assert sft.shared_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2


def test_comparison(material, sizes, tmp_path):
    found, choice = sft.compare(material, sizes, tmp_path)
    speed, linear, total = found.rows
    assert len(speed.ours) == len(speed.theirs) == len(linear.ours) == sizes.rounds
    assert choice.rate > 0 and choice.batch in (1, 2)
    assert set(found.details["trials"]) == {"packing off", "packing on"}
    assert total.ours[0] > linear.ours[0] > 0 and (total.target, speed.target) == (0.5, 25)
    alone, none = sft.compare(material, sizes, tmp_path, ours_only=True)
    assert none is None and alone.rows[0].theirs == [] and alone.rows[0].ratio is None


def test_the_peak_is_a_rate():
    assert peak(32, 0.01) > 0
