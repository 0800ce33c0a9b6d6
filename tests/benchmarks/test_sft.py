from collections import Counter

import pytest

from stages.benchmarks import sft
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
def rows(inputs):
    return inputs.stretches(30, 0)


@pytest.mark.parametrize("packing", [False, True])
def test_both_sides_train_on_the_same_labels(inputs, rows, packing):
    ours = sft.our_trainer(inputs, sft.our_sequences(inputs, rows))
    windows = sft.baseline_windows(inputs, inputs.labels_among(rows))
    baseline = sft.baseline_trainer(inputs, windows, sft.Choice(packing, 2))
    names, paper = ({tuple(answer): name for name, answer in zip(layout.candidates, layout.answers, strict=True)}
                    for layout in (inputs.stream, inputs.window))
    mine = Counter({names[run]: count for run, count in answers_in(ours.train_dataset).items()})
    packed = Counter({paper[run]: count for run, count in answers_in(baseline.train_dataset).items()})
    assert mine == packed
    assert mine.total() == len(windows) == sft.count_targets(inputs, sft.our_sequences(inputs, rows))
    assert set(mine) == {inputs.stream.candidates[number] for number in inputs.trained}


def test_both_sides_train_the_same_adapter(inputs, rows):
    windows = sft.baseline_windows(inputs, inputs.labels_among(rows)[:4])
    ours = sft.our_trainer(inputs, sft.our_sequences(inputs, rows))
    baseline = sft.baseline_trainer(inputs, windows, sft.Choice(False, 2))
    assert {name: weight.shape for name, weight in ours.model.named_parameters() if weight.requires_grad} == {
        name: weight.shape for name, weight in baseline.model.named_parameters() if weight.requires_grad
    }
    assert ours.args.learning_rate == baseline.args.learning_rate and ours.args.bf16 == baseline.args.bf16
    assert not baseline.args.activation_checkpointing and baseline.args.gradient_accumulation_steps == 4


def test_operations_of_a_pass(inputs, rows):
    sequences = sft.our_sequences(inputs, rows)
    data = labelled(sequences, inputs.trained)
    prefix = sft.shared_prefix(data["input_ids"])
    assert prefix >= len(inputs.stream.prefix)
    needed, half = sft.needed_flops(inputs, sequences), sft.needed_flops(inputs, sequences[:4])
    assert 0 < sum(half) < sum(needed) and needed.linear < sum(needed)
    assert sft.shared_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2


def test_comparison(inputs, sizes):
    found = sft.compare(inputs)
    choice = sft.Choice(**found.details["choice"])
    speed, linear, total = found.rows
    assert len(speed.ours) == len(speed.baseline) == len(linear.ours) == sizes.rounds
    assert choice.rate > 0 and choice.batch in (1, 2)
    assert set(found.details["trials"]) == {"packing off", "packing on"}
    assert total.ours[0] > linear.ours[0] > 0 and (total.target, speed.target) == (0.5, 25)
    alone = sft.compare(inputs, ours_only=True)
    assert alone.details["choice"] is None and alone.rows[0].baseline == [] and alone.rows[0].ratio is None


def test_the_peak_is_a_rate():
    assert peak(32, 0.01) > 0
