import numpy as np

from stages.benchmarks import accuracy, sft
from stages.benchmarks.data import stretches
from stages.model.likelihood import score
from stages.model.load import load_base


def test_comparison(material, sizes, tmp_path):
    found = accuracy.compare(material, sizes, tmp_path, sft.Choice(packing=False, batch=2, rate=20))
    (row,) = found.rows
    assert row.rule == "higher" and 0 <= row.ours[0] <= 1 and 0 <= row.theirs[0] <= 1
    assert 0 <= found.details["their_accuracy_untrained"] <= 1
    assert found.details["our_steps"] > 0 and found.details["their_steps"] > 0


def test_training_stops_when_its_time_is_over(material, tmp_path):
    rows = stretches(material, 60, 0)
    _, clock, targets = accuracy.train_ours(material, rows, rate=1e6, seconds=0.3, folder=tmp_path)
    assert 0.3 <= clock.seconds < 5 and clock.steps >= 1 and targets > 0


def test_accuracy_is_that_of_the_adapter_in_its_layout(material, tmp_path):
    valid = accuracy.validation_rows(material, 6)
    assert len(valid) == 6 and set(valid) <= set(material.rows("valid").tolist())
    trainer = sft.our_trainer(material, sft.our_sequences(material, stretches(material, 10, 0)), tmp_path, [])
    got = accuracy.accuracy(material, material.window, trainer, valid, tmp_path / "untrained")
    asked = [material.window.prompt(int(row)) for row in valid]
    log_p = score(load_base(material.model), asked, material.window.answers).log_p
    assert got == np.mean(log_p.argmax(axis=1) == material.log.behavior[valid])
