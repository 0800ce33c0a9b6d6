import numpy as np

from stages.benchmarks import accuracy, sft
from stages.model.likelihood import score
from stages.model.load import load_base


def test_comparison(inputs):
    found = accuracy.compare(inputs, choice=sft.Choice(packing=False, batch=2, rate=20))
    (row,) = found.rows
    assert row.rule == "higher" and 0 <= row.ours[0] <= 1 and 0 <= row.baseline[0] <= 1
    assert 0 <= found.details["baseline_accuracy_untrained"] <= 1
    assert found.details["our_steps"] > 0 and found.details["baseline_steps"] > 0


def test_training_stops_when_its_time_is_over(inputs):
    rows = inputs.stretches(60, 0)
    _, clock, targets = accuracy.train_ours(inputs, rows, rate=1e6, seconds=0.3)
    assert 0.3 <= clock.seconds < 5 and clock.steps >= 1 and targets > 0


def test_accuracy_is_that_of_the_adapter_in_its_layout(inputs):
    valid = accuracy.validation_rows(inputs, 6)
    assert len(valid) == 6 and set(valid) <= set(inputs.rows("valid").tolist())
    trainer = sft.our_trainer(inputs, sft.our_sequences(inputs, inputs.stretches(10, 0)))
    got = accuracy.accuracy(inputs, inputs.window, trainer, valid)
    asked = [inputs.window.prompt(int(row)) for row in valid]
    log_p = score(load_base(inputs.model), asked, inputs.window.answers).log_p
    assert got == np.mean(log_p.argmax(axis=1) == inputs.log.behavior[valid])
