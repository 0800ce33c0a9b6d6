import numpy as np
import pytest

from stages.benchmarks import dpo
from stages.benchmarks.training import Clock
from stages.model.load import new_adapter, save_adapter
from stages.model.resolve import read_manifest


@pytest.fixture
def adapter(material, tmp_path):
    folder = tmp_path / "sft"
    folder.mkdir()
    save_adapter(new_adapter(material.model, material.params.lora, 0), read_manifest(material.model), folder)
    return folder


def test_pairs_are_the_truth_and_another_behaviour(material):
    samples = dpo.pairs(material, 12)
    answers = material.stream.answers
    prompts = {tuple(material.stream.prompt(int(row))): material.log.behavior[row] for row in material.rows("train")}
    for pair in samples:
        assert pair["chosen_ids"] == answers[prompts[tuple(pair["prompt_ids"])]] != pair["rejected_ids"]
        assert pair["rejected_ids"] in answers
    assert samples.to_dict() == dpo.pairs(material, 12).to_dict()


def test_another_order_holds_the_same_pairs_and_finds_no_old_reference(material):
    samples = dpo.pairs(material, 5)
    turned = dpo.turned(samples, 2)
    assert turned["prompt_ids"] == samples["prompt_ids"][3:] + samples["prompt_ids"][:3]
    assert turned._fingerprint != dpo.turned(samples, 1)._fingerprint


def test_a_rival_on_token_ids_computes_its_reference_anew(material, adapter, tmp_path, monkeypatch):
    computed = []
    inner = dpo.TokenPairs.compute_ref_log_probs
    monkeypatch.setattr(dpo.TokenPairs, "compute_ref_log_probs",
                        lambda self, *args: computed.append(1) or inner(self, *args))
    samples = dpo.pairs(material, 4)
    for by in (1, 2):
        computed.clear()
        rate = dpo.their_rate(material, dpo.turned(samples, by), {"precompute_ref_log_probs": True}, adapter, tmp_path)
        assert rate > 0 and len(computed) == 2, "four pairs, two a batch"


def test_comparison(material, sizes, tmp_path):
    found = dpo.compare(material, sizes, tmp_path)
    assert [row.target for row in found.rows] == [4, 3, None] and found.details["failed"] == {}
    assert all(len(row.ours) == len(row.theirs) == sizes.rounds for row in found.rows)
    assert np.isfinite([row.ratio for row in found.rows]).all()
    (alone,) = dpo.compare(material, sizes, tmp_path, ours_only=True).rows
    assert alone.theirs == [] and len(alone.ours) == sizes.rounds


def test_a_rival_that_fails_is_reported(material, sizes, tmp_path, monkeypatch):
    monkeypatch.setattr(dpo, "_VARIANTS", {"a setting it has not": (4, {"no_such_setting": 1})})
    (row,) = dpo.compare(material, sizes, tmp_path).rows
    assert row.theirs == [] and row.ratio is None and row.reached is None and "no_such_setting" in row.note


def test_a_clock_stops_training_at_its_limit():
    class Control:
        should_training_stop = False

    class State:
        global_step = 3

    clock, control = Clock(0.0), Control()
    clock.on_step_begin(None, State, control)
    clock.on_step_end(None, State, control)
    assert control.should_training_stop and clock.steps == 3 and clock.seconds > 0
