import csv
import json
import shutil
import sys

import numpy as np
import polars as pl
import pytest
import torch
from peft import PeftModel
from peft.utils import save_and_load
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from stages import dpo as stage
from stages.common.checksums import seal_folder
from stages.common import tables
from stages.common.errors import UserError
from stages.dpo import dpo, pair_tokens, validation
from stages.model.likelihood import score
from stages.model.load import load_adapter, load_merged, load_tokenizer
from stages.prompts.layout import prompts
from stages.prompts.layouts import make_layout
from stages.prompts.log import EventLog
from tests.events.helpers import write_params
from tests.small_log import BEHAVIORS, sft_adapter, all_behaviors, small_log, small_params, small_windows
from tests.small_runs import checkpoints_in, killed_at, logged, same, weights_of

DPO = {"batch_size": 8, "epochs": 2, "learning_rate": 3e-3, "validations_per_epoch": 2, "patience": 100, "beta": 0.1,
       "nll_weight": 0.5, "objective": "dpo", "valid_per_behavior": 2}


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture(scope="module")
def tuned(tiny_base, tmp_path_factory):
    return sft_adapter(tiny_base, tmp_path_factory.mktemp("models") / "sft")


@pytest.fixture(scope="module")
def log():
    """Events, windows, and pairs of some training windows: any other behaviour is rejected."""
    events = small_log([25, 25, 25])
    windows = small_windows(events, ["train", "train", "valid"])
    rng = np.random.default_rng(0)
    rows = rng.permutation(windows.filter(split="train")["row"].to_numpy())[:19]
    chosen = events["behavior"].gather(rows).to_list()
    rejected = [rng.choice([name for name in BEHAVIORS if name != one]) for one in chosen]
    pairs = pl.DataFrame({"row": rows, "chosen": chosen, "rejected": rejected, "difficulty": [0.5] * 19})
    return events, windows, pairs.cast(tables.SCHEMAS["pairs"])


def params_of(**changes):
    return small_params(**{f"dpo__{key}": value for key, value in (DPO | changes).items()})


def run(log, model, scratch, micro_batch=8, **changes):
    events, windows, pairs = log
    return dpo(events, windows, all_behaviors(), pairs, params_of(**changes), model, scratch, micro_batch)


def layout_of(events, model):
    log = EventLog.from_tables(events, all_behaviors())
    return make_layout(load_tokenizer(model), log, small_params().prompt, 6, 3, 0)


@pytest.fixture(scope="module")
def whole(log, tuned, tmp_path_factory):
    """An uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHAVIORLM_DTYPE", "float32")
        patch.setattr(stage, "validation", ever_better)
        return run(log, tuned, tmp_path_factory.mktemp("whole"))


def ever_better(*arguments):
    """A validation that finds every adapter better than the one before, so that the last adapter is returned."""
    values = iter(range(100))
    return lambda model: {"overall": float(next(values))}


def far_from(tuned):
    """A validation that likes what has moved far from `tuned`, and gives the same value twice."""
    start = vector(load_adapter(tuned))
    return lambda *arguments: lambda model: {"overall": float((vector(model) - start).norm())}


def vector(model):
    return torch.cat([w.detach().flatten() for name, w in sorted(model.named_parameters()) if ".default." in name])


def test_training_starts_at_the_tuned_adapter_and_lowers_the_loss(whole, tuned):
    trainer, counts = whole
    assert counts["pairs"] == 19 and counts["steps"] == 6 == counts["best_step"]
    losses, margins = logged(trainer, "loss"), logged(trainer, "rewards/margins")
    nll = -logged(trainer, "logps/chosen")[1]
    assert losses[1] == pytest.approx(np.log(2) + 0.5 * nll, abs=1e-4), "the first batch, before any step"
    assert margins[1] == pytest.approx(0, abs=1e-5) and abs(margins[6]) > 1e-3
    everything = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    start = np.log(2) - 0.5 * np.mean([row["ref_chosen_logps"] for row in trainer.train_dataset])
    assert trainer.compute_loss(trainer.model, everything).item() < start - 0.1
    assert counts["trained_parameters"] == len(vector(trainer.model)) == len(weights_of(trainer))
    assert sorted(logged(trainer, "eval_overall")) == [0, 2, 4, 6]


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_many_small_steps_of_accumulation_equal_one_large_batch(
    whole, log, tuned, tmp_path, monkeypatch, micro_batch
):
    monkeypatch.setattr(stage, "validation", ever_better)
    trainer, _ = run(log, tuned, tmp_path, micro_batch)
    assert trainer.args.gradient_accumulation_steps == {1: 8, 3: 4}[micro_batch]
    same(trainer, whole[0])
    assert logged(trainer, "loss") == pytest.approx(logged(whole[0], "loss"), abs=1e-5)


@pytest.mark.parametrize("objective", ["dpo", "sft"])
@pytest.mark.parametrize("step", [2, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(log, tuned, tmp_path, monkeypatch, capsys, step, objective):
    monkeypatch.setattr(stage, "validation", far_from(tuned))
    uninterrupted, expected = run(log, tuned, tmp_path / "whole", objective=objective)
    with killed_at(monkeypatch, step):
        run(log, tuned, tmp_path / "cut", objective=objective)
    assert checkpoints_in(tmp_path / "cut")[-1] == f"checkpoint-{step - 1}"
    half = tmp_path / "cut" / "checkpoint-999"
    half.mkdir()
    capsys.readouterr()
    trainer, counts = run(log, tuned, tmp_path / "cut", objective=objective)
    assert f"going on from step {step - 1} of an interrupted run" in capsys.readouterr().err
    assert not half.exists()
    same(trainer, uninterrupted)
    assert counts == pytest.approx(expected, abs=1e-4)
    for key in ("loss", "eval_overall", "learning_rate", "logps/chosen"):
        assert logged(trainer, key) == pytest.approx(logged(uninterrupted, key), abs=1e-4)
    assert set(expected) == set(counts) and expected["best_step"] == 6


def test_a_run_that_never_gets_better_returns_the_adapter_it_was_given(log, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "validation", lambda *arguments: lambda model: {"overall": 0.5})
    trainer, counts = run(log, tuned, tmp_path, patience=2)
    assert (counts["best_step"], counts["steps"]) == (0, 4)
    given = load_adapter(tuned)
    for name, weight in given.named_parameters():
        assert torch.equal(weight, trainer.model.get_parameter(name))


def test_validations_are_the_mean_over_behaviours_of_the_accuracy_on_validation_windows(log, tuned, tmp_path):
    events, windows, _ = log
    layout = layout_of(events, tuned)
    settings = params_of(valid_per_behavior=3).dpo
    found = validation(events, windows, layout.log, layout, settings, 0)(load_adapter(tuned))
    rows = windows.filter(split="valid")["row"].to_numpy()
    truth = layout.log.behavior[rows]
    rng = np.random.default_rng([0, 4])
    order = rng.permutation(len(rows))
    kept = np.concatenate([order[truth[order] == b][:3] for b in np.unique(truth)])
    assert len(kept) < len(rows)
    log_p = score(load_merged(tuned), prompts(layout, rows[kept]), layout.answers).log_p
    right, loss = log_p.argmax(axis=1) == truth[kept], -log_p[np.arange(len(kept)), truth[kept]]
    means = [[values[truth[kept] == b].mean() for b in np.unique(truth)] for values in (right, loss)]
    assert found == pytest.approx({"overall": np.mean(means[0]), "log_loss": np.mean(means[1])}, abs=1e-4)
    shuffled = validation(events, windows.reverse(), layout.log, layout, settings, 0)(load_adapter(tuned))
    assert shuffled == pytest.approx(found, abs=1e-6)
    trainer, counts = run(log, tuned, tmp_path, epochs=0.4, valid_per_behavior=3)
    assert counts["first_validation"] == pytest.approx(found["overall"]) == logged(trainer, "eval_overall")[0]


def test_without_a_validation_window_there_is_nothing_to_validate_on(log, tuned):
    events, windows, _ = log
    layout = layout_of(events, tuned)
    with pytest.raises(UserError, match="windows: none of split valid; the log has too few users"):
        validation(events, windows.filter(split="train"), layout.log, layout, params_of().dpo, 0)


def test_pairs_become_the_test_prompt_and_two_answers(log, tuned):
    events, _, pairs = log
    layout = layout_of(events, tuned)
    samples = pair_tokens(pairs, layout, all_behaviors())
    number = {name: i for i, name in enumerate(all_behaviors()["behavior"])}
    for sample, pair in zip(samples, pairs.sort("row").iter_rows(named=True), strict=True):
        assert sample["prompt_ids"] == layout.prompt(pair["row"])
        assert sample["chosen_ids"] == layout.answers[number[pair["chosen"]]]
        assert sample["rejected_ids"] == layout.answers[number[pair["rejected"]]]
    assert pair_tokens(pairs.reverse(), layout, all_behaviors()).to_list() == samples.to_list()


@pytest.mark.parametrize(("column", "value", "says"), [
    ("rejected", pl.col("chosen"), "chosen and rejected are both '.*'; such a pair has no gradient"),
    ("rejected", pl.lit("Flying"), "'Flying' is not in the vocabulary"),
    ("chosen", pl.lit("Flying"), "'Flying' is not in the vocabulary"),
])
def test_a_pair_that_teaches_nothing_is_refused_by_its_row(log, tuned, column, value, says):
    events, _, pairs = log
    wrong = pairs.sort("row").head(1).with_columns(value.alias(column))
    with pytest.raises(UserError, match=f"pairs: row {wrong['row'][0]}: {says}"):
        pair_tokens(wrong, layout_of(events, tuned), all_behaviors())


def test_no_hub_is_asked_for_a_base_that_has_its_name(log, tuned, tmp_path, monkeypatch):
    model = shutil.copytree(tuned, tmp_path / "sft")
    config = json.loads((model / "adapter_config.json").read_text(encoding="utf-8"))
    (model / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "nobody/nothing"}), encoding="utf-8"
    )
    seal_folder(model)
    asked = []
    monkeypatch.setattr(save_and_load, "check_file_exists_on_hf_hub", lambda *name, **kwargs: asked.append(name))
    monkeypatch.setattr(stage, "validation", ever_better)
    with killed_at(monkeypatch, 2):
        run(log, model, tmp_path / "cut")
    assert checkpoints_in(tmp_path / "cut") and asked == []


def test_command(log, tuned, tiny_model, tmp_path, monkeypatch):
    events, windows, pairs = log
    for name, frame in {"events": events, "windows": windows, "pairs": pairs, "vocabulary": all_behaviors()}.items():
        tables.write(frame, name, tmp_path / f"{name}.parquet")
    params = write_params(tmp_path / "params.yaml", params_of(epochs=1))
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stage, "validation", far_from(tuned))
    monkeypatch.setattr(sys, "argv", [
        "dpo", "--params", str(params), *[f"--{name}={tmp_path / name}.parquet" for name in (
            "events", "windows", "vocabulary", "pairs")],
        "--model", str(tuned), "--out", str(tmp_path / "dpo"), "--counts", str(tmp_path / "dpo.json"),
        "--history", str(tmp_path / "dpo.csv"),
    ])
    with killed_at(monkeypatch, 2):
        stage.STAGE.main()
    (scratch,) = (tmp_path / "cache" / "checkpoints").iterdir()
    stage.STAGE.main()
    assert not scratch.exists(), "checkpoints are removed when the result is safe"
    assert sorted(path.name for path in (tmp_path / "dpo").iterdir()) == [
        "SHA256SUMS", "adapter_config.json", "adapter_model.safetensors", "base.json"
    ]
    assert not any("ref" in name for name in load_file(tmp_path / "dpo" / "adapter_model.safetensors"))
    alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
                                      str(tmp_path / "dpo")).eval()
    ids = torch.tensor([[5, 9, 30, 7]])
    with torch.inference_mode():
        said = alone(ids).logits
        assert torch.allclose(said, load_merged(tmp_path / "dpo")(ids).logits, atol=1e-4)
        assert (said - load_merged(tuned)(ids).logits).abs().max() > 1e-3
    metrics = json.loads((tmp_path / "dpo.json").read_text(encoding="utf-8"))
    with open(tmp_path / "dpo.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["eval_overall"]) == metrics["first_validation"]
    assert [int(row["step"]) for row in rows] == list(range(metrics["steps"] + 1))
