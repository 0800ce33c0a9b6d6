from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl

from stages.common.errors import UserError
from stages.common.files import read_json
from stages.model.load import new_adapter
from stages.model.settings import Lora
from stages.training import trainer as training
from stages.training.trainer import Checkpoints, KeepBest, WarmupCosine, arguments, write_history
from tests.small_log import small_params


def rates(total, **schedule):
    """The rate before each step, and after the last."""
    section = small_params(**{f"sft__{key}": value for key, value in schedule.items()}).sft
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=section.learning_rate)
    mixin = WarmupCosine()
    mixin.schedule, mixin.lr_scheduler = section, None
    scheduler = mixin.create_scheduler(total, optimizer)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(total):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_rises_from_its_least_to_its_peak_and_falls_back_in_a_cosine():
    found = rates(100, learning_rate=1e-3, min_learning_rate=1e-5, warmup=0.1)
    assert found[0] == pytest.approx(1e-5)
    assert found[5] == pytest.approx((1e-3 + 1e-5) / 2)
    assert found[10] == pytest.approx(1e-3) and max(found) == found[10]
    assert found[55] == pytest.approx((1e-3 + 1e-5) / 2)
    assert found[-1] == pytest.approx(1e-5)
    assert found[:11] == sorted(found[:11]) and found[10:] == sorted(found[10:], reverse=True)


def test_without_a_warm_up_the_first_step_has_the_peak():
    found = rates(10, learning_rate=1e-3, min_learning_rate=0.0, warmup=0)
    assert found[0] == pytest.approx(1e-3) and found[-1] == pytest.approx(0, abs=1e-12)


def test_a_rate_never_falls_below_its_own_peak_where_the_least_is_higher():
    assert rates(4, learning_rate=1e-4, min_learning_rate=1e-3, warmup=0.5) == pytest.approx([1e-4] * 5)


@pytest.mark.parametrize(("devices", "most", "micro", "accumulate"), [
    (1, 8, 8, 1), (1, 1, 1, 8), (1, 3, 2, 4), (1, 100, 8, 1), (2, 8, 4, 1), (4, 1, 1, 2), (8, 4, 1, 1),
])
def test_devices_times_micro_batch_times_accumulation_is_the_batch(
    monkeypatch, tmp_path, devices, most, micro, accumulate
):
    monkeypatch.setenv("WORLD_SIZE", str(devices))
    found = arguments(small_params(sft__batch_size=8).sft, 100, tmp_path, 0, most)
    assert found["per_device_train_batch_size"] == micro
    assert found["gradient_accumulation_steps"] == accumulate
    assert devices * micro * accumulate == 8


def test_a_batch_that_devices_cannot_share_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="batch_size: 8: not a multiple of the 3 devices"):
        arguments(small_params(sft__batch_size=8).sft, 100, tmp_path, 0, 4)


@pytest.fixture
def adapter(tiny_base):
    return new_adapter(tiny_base, Lora(rank=2, alpha=4, dropout=0), 0)


def mark(adapter, value):
    """Make the adapter's weights recognisable."""
    for name, weight in adapter.named_parameters():
        if "lora_" in name:
            weight.data.fill_(value)


def marked(adapter):
    weights = [weight.detach() for name, weight in adapter.named_parameters() if "lora_" in name]
    (value,) = torch.cat([weight.flatten() for weight in weights]).unique().tolist()
    return value


def validate(best, adapter, step, value):
    """Validate after `step` steps; returns whether training goes on."""
    mark(adapter, step)
    control = TrainerControl()
    best.on_evaluate(None, SimpleNamespace(global_step=step, is_world_process_zero=True), control,
                     metrics={"eval_x": value, "eval_other": 99}, model=adapter)
    return not control.should_training_stop


@pytest.mark.parametrize(("greater", "values", "best_step"), [
    (False, [3.0, 2.0, 1.0], 2), (False, [3.0, 1.0, 2.0], 1), (True, [0.1, 0.5, 0.3], 1),
    (True, [0.5, 0.4, 0.3], 0), (False, [1.0, 2.0, 3.0], 0),
    (True, [0.1, 0.5, 0.5], 1), (False, [1.0, 1.0, 1.0], 0),
])
def test_the_best_validation_is_restored_the_earliest_among_equals(adapter, tmp_path, greater, values, best_step):
    best = KeepBest(tmp_path, "eval_x", greater, patience=100)
    for step, value in enumerate(values):
        assert validate(best, adapter, step, value)
    assert best.validations.best_step == best_step and best.validations.best == values[best_step]
    mark(adapter, 77)
    best.restore(adapter)
    assert marked(adapter) == best_step


def test_training_stops_when_patience_is_out(adapter, tmp_path):
    best = KeepBest(tmp_path, "eval_x", False, patience=2)
    assert [validate(best, adapter, step, value) for step, value in ((0, 5.0), (10, 4.0), (20, 4.5))] == [True] * 3
    assert not validate(best, adapter, 30, 4.0), "an equal is no improvement"
    assert validate(best, adapter, 40, 3.0), "an improvement is one, however late"


def test_a_validation_repeated_after_a_resume_counts_once(adapter, tmp_path):
    best = KeepBest(tmp_path, "eval_x", False, patience=2)
    for step, value in ((0, 1.0), (10, 2.0)):
        assert validate(best, adapter, step, value)
    again = KeepBest(tmp_path, "eval_x", False, patience=2)
    assert again.validations == best.validations
    assert read_json(tmp_path / "validations.json") == {"0": 1.0, "10": 2.0}
    assert validate(again, adapter, 10, 2.0)
    assert not validate(again, adapter, 20, 2.0)
    again.restore(adapter)
    assert marked(adapter) == 0


def test_validations_ahead_of_a_resumed_run_do_not_stop_it_early(adapter, tmp_path):
    first = KeepBest(tmp_path, "eval_x", False, patience=2)
    assert [validate(first, adapter, step, 1.0 + step) for step in (0, 10, 20)] == [True, True, False]
    again = KeepBest(tmp_path, "eval_x", False, patience=2)
    assert validate(again, adapter, 10, 11.0)
    assert not validate(again, adapter, 20, 21.0)


def test_metrics_without_the_one_asked_for_are_no_validation(adapter, tmp_path):
    best = KeepBest(tmp_path, "eval_y", False, patience=1)
    assert validate(best, adapter, 0, 1.0) and best.validations.values == {} and list(tmp_path.iterdir()) == []


def test_other_processes_write_nothing(adapter, tmp_path):
    best = KeepBest(tmp_path, "eval_x", False, patience=1)
    best.on_evaluate(None, SimpleNamespace(global_step=0, is_world_process_zero=False), TrainerControl(),
                     metrics={"eval_x": 1.0}, model=adapter)
    assert best.validations.values == {0: 1.0} and list(tmp_path.iterdir()) == []


def test_a_half_written_checkpoint_is_ignored_and_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    state = SimpleNamespace(global_step=0, is_world_process_zero=True)
    for state.global_step in (2, 10):
        (tmp_path / f"checkpoint-{state.global_step}").mkdir()
        checkpoints.on_save(None, state, TrainerControl())
    (tmp_path / "checkpoint-30").mkdir()
    (tmp_path / "checkpoint-30" / "adapter_model.safetensors").touch()
    assert checkpoints.latest() == str(tmp_path / "checkpoint-10"), "by number, not by name"
    assert not (tmp_path / "checkpoint-30").exists()


def test_checkpoints_are_saved_by_the_clock(monkeypatch, tmp_path):
    now = SimpleNamespace(value=0.0)
    monkeypatch.setattr(training.time, "monotonic", lambda: now.value)
    checkpoints, state = Checkpoints(tmp_path), SimpleNamespace(global_step=1, is_world_process_zero=False)

    def asks():
        control = TrainerControl()
        checkpoints.on_step_end(None, state, control)
        return control.should_save

    found = []
    for now.value in (1.0, 59.0, 61.0, 62.0):
        found.append(asks())
    checkpoints.on_save(None, state, TrainerControl())
    found.append(asks())
    assert found == [False, False, True, True, False]


def test_the_history_has_one_row_a_step(tmp_path):
    write_history([
        {"eval_loss": 3.0, "eval_runtime": 1.0, "step": 0}, {"loss": 2.5, "epoch": 0.5, "step": 1},
        {"eval_loss": 2.0, "epoch": 0.5, "step": 1}, {"loss": 2.25, "epoch": 1.0, "step": 2},
        {"train_runtime": 9.0, "train_loss": 1.0, "step": 2},
    ], tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines() == [
        "step,epoch,eval_loss,loss", "0,,3.0,", "1,0.5,2.0,2.5", "2,1.0,,2.25",
    ]
