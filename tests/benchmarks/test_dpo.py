import numpy as np

from stages.benchmarks import dpo
from stages.benchmarks.training import Clock


def test_pairs_are_the_truth_and_another_behaviour(inputs):
    samples = dpo.pairs(inputs, 12)
    answers = inputs.stream.answers
    prompts = {tuple(inputs.stream.prompt(int(row))): inputs.log.behavior[row] for row in inputs.rows("train")}
    for pair in samples:
        assert pair["chosen_ids"] == answers[prompts[tuple(pair["prompt_ids"])]] != pair["rejected_ids"]
        assert pair["rejected_ids"] in answers
    assert samples.to_dict() == dpo.pairs(inputs, 12).to_dict()


def test_another_order_holds_the_same_pairs_and_finds_no_old_reference(inputs):
    samples = dpo.pairs(inputs, 5)
    turned = dpo.turned(samples, 2)
    assert turned["prompt_ids"] == samples["prompt_ids"][3:] + samples["prompt_ids"][:3]
    assert turned._fingerprint != dpo.turned(samples, 1)._fingerprint


def test_a_baseline_on_token_ids_computes_its_reference_anew(inputs, monkeypatch):
    computed = []
    inner = dpo.TokenPairs.compute_ref_log_probs
    monkeypatch.setattr(dpo.TokenPairs, "compute_ref_log_probs",
                        lambda self, *args: computed.append(1) or inner(self, *args))
    samples = dpo.pairs(inputs, 4)
    for by in (1, 2):
        computed.clear()
        rate = dpo.baseline_rate(inputs, dpo.turned(samples, by), {"precompute_ref_log_probs": True})
        assert rate > 0 and len(computed) == 2, "four pairs, two a batch"


def test_comparison(inputs, sizes):
    found = dpo.compare(inputs)
    assert [row.target for row in found.rows] == [4, 3, None] and found.details["failed"] == {}
    assert all(len(row.ours) == len(row.baseline) == sizes.rounds for row in found.rows)
    assert np.isfinite([row.ratio for row in found.rows]).all()
    (alone,) = dpo.compare(inputs, ours_only=True).rows
    assert alone.baseline == [] and len(alone.ours) == sizes.rounds


def test_a_baseline_that_fails_is_reported(inputs, monkeypatch):
    monkeypatch.setattr(dpo, "_VARIANTS", {"a setting it has not": (4, {"no_such_setting": 1})})
    (row,) = dpo.compare(inputs).rows
    assert row.baseline == [] and row.ratio is None and row.reached is None and "no_such_setting" in row.note


def test_a_clock_stops_training_at_its_limit():
    class Control:
        should_training_stop = False

    class State:
        global_step = 3

    clock, control = Clock(0.0), Control()
    clock.on_step_begin(None, State, control)
    clock.on_step_end(None, State, control)
    assert control.should_training_stop and clock.steps == 3 and clock.seconds > 0
