import csv
import json
import shutil
import sys

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from stages import sft as stage
from stages.common import tables
from stages.common.errors import UserError
from stages.common.files import DIGITS
from stages.common.stage import UNFINISHED
from stages.model.settings import Lora
from stages.instructions import instructions
from stages.model.likelihood import score
from stages.model.load import load_adapter, load_merged, load_tokenizer, new_adapter
from stages.model.resolve import resolve, write_manifest
from stages.sft import auxiliary_share, sft, trained_behaviors, untuned
from tests.events.helpers import write_params
from tests.small_log import SHARES, all_behaviors, small_log, small_params, small_windows
from tests.small_runs import checkpoints_in, killed_at, latest_in, logged, same, weights_of

CHATS = pl.DataFrame({"turns": [[f"What about {n}?", "It is" + " so" * (5 * n) + "."] for n in range(6)]})


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setenv("BEHAVIORLM_DTYPE", "float32")


@pytest.fixture(scope="module")
def sequences(tiny_base):
    events = small_log([30, 30, 20, 20, 15])
    windows = small_windows(events, ["train"] * 4 + ["valid"])
    return instructions(events, windows, all_behaviors(), CHATS, load_tokenizer(tiny_base), small_params())[0]


def run(sequences, model, scratch, micro_batch=8, **changes):
    defaults = {"batch_size": 8, "epochs": 2, "learning_rate": 3e-3, "validations_per_epoch": 2, "patience": 100,
                "epsilon": 0.1, "labels": "anchors"}
    params = small_params(**{f"sft__{key}": value for key, value in (defaults | changes).items()})
    return sft(sequences, all_behaviors(), params, model, scratch, micro_batch)


@pytest.fixture(scope="module")
def whole(sequences, tiny_base, tmp_path_factory):
    """An uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHAVIORLM_DTYPE", "float32")
        return run(sequences, tiny_base, tmp_path_factory.mktemp("whole"))


def test_training_learns_and_says_so(whole, sequences):
    trainer, counts = whole
    assert counts["best_validation"] < counts["first_validation"] - 0.01 and counts["best_step"] > 0
    assert counts["steps"] == trainer.state.max_steps == 6
    assert counts["sequences"] == len(sequences["train"]) and counts["trained_behaviors"] == 4
    assert counts["trained_parameters"] == weights_of(trainer).numel()
    losses, rates = logged(trainer, "eval_loss"), logged(trainer, "learning_rate")
    assert sorted(losses) == [0, 2, 4, 6]
    assert losses[counts["best_step"]] == counts["best_validation"] == min(losses.values())
    assert rates[1] == pytest.approx(1e-6) and max(rates.values()) == pytest.approx(3e-3)
    assert (counts["sequences"] + counts["auxiliary_conversations"]) % 8, "the last batch of an epoch is a smaller one"


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_many_small_steps_of_accumulation_equal_one_large_batch(whole, sequences, tiny_base, tmp_path, micro_batch):
    trainer, counts = run(sequences, tiny_base, tmp_path, micro_batch)
    assert trainer.args.gradient_accumulation_steps == {1: 8, 3: 4}[micro_batch]
    same(trainer, whole[0])
    for key in ("loss", "eval_loss"):
        assert logged(trainer, key) == pytest.approx(logged(whole[0], key), abs=1e-5)
    assert counts["best_step"] == whole[1]["best_step"]


@pytest.mark.parametrize("step", [2, 5, 6])
def test_a_resumed_run_equals_an_uninterrupted_one(
    whole, sequences, tiny_base, tmp_path, monkeypatch, capsys, step
):
    with killed_at(monkeypatch, step):
        run(sequences, tiny_base, tmp_path)
    assert checkpoints_in(tmp_path)[-1] == f"checkpoint-{step - 1}"
    half = tmp_path / "checkpoint-999"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    capsys.readouterr()
    trainer, counts = run(sequences, tiny_base, tmp_path)
    assert f"going on from step {step - 1} of an interrupted run" in capsys.readouterr().err
    assert not half.exists()
    same(trainer, whole[0])
    assert counts == pytest.approx(whole[1], abs=1e-5)
    for key in ("loss", "eval_loss", "learning_rate"):
        assert logged(trainer, key) == pytest.approx(logged(whole[0], key), abs=1e-5)


def test_a_run_killed_before_its_first_checkpoint_starts_anew(whole, sequences, tiny_base, tmp_path, monkeypatch):
    with killed_at(monkeypatch, 1):
        run(sequences, tiny_base, tmp_path)
    assert latest_in(tmp_path) is None
    trainer, _ = run(sequences, tiny_base, tmp_path)
    same(trainer, whole[0])


def test_a_run_that_only_gets_worse_returns_the_untrained_adapter_and_stops_early(sequences, tiny_base, tmp_path):
    def unheard_of(row):
        ids = list(row["input_ids"])
        for start, end in zip(row["target_start"], row["target_end"], strict=True):
            ids[start:end] = [499] * (end - start)
        return ids

    valid = sequences["valid"]
    ids = [unheard_of(row) for row in valid.iter_rows(named=True)]
    valid = valid.with_columns(input_ids=pl.Series(ids, dtype=tables.INTS))
    trainer, counts = run(sequences | {"valid": valid}, tiny_base, tmp_path, patience=1)
    assert (counts["best_step"], counts["steps"]) == (0, 2) and counts["best_validation"] == counts["first_validation"]
    untrained = new_adapter(tiny_base, Lora(rank=4, alpha=8, dropout=0), 0)
    for name, weight in untrained.named_parameters():
        assert torch.equal(weight, trainer.model.get_parameter(name))


def test_the_end_is_validated_where_the_steps_between_validations_do_not_meet_it(sequences, tiny_base, tmp_path):
    trainer, counts = run(sequences, tiny_base, tmp_path, epochs=1)
    assert sorted(logged(trainer, "eval_loss")) == [0, 2, 3] and counts["best_step"] == 3


def test_another_seed_is_another_adapter(whole, sequences, tiny_base, tmp_path):
    params = small_params(seed=1, sft__batch_size=8, sft__epochs=0.2)
    trainer, _ = sft(sequences, all_behaviors(), params, tiny_base, tmp_path, 8)
    assert (weights_of(trainer) - weights_of(whole[0])).abs().max() > 0.01


def test_labels_choose_the_behaviours():
    vocabulary = all_behaviors()
    for labels, expected in (
        ("anchors", [0, 1, 2, 3]), ("all", [*range(6)]), ("tail", [4, 5]), ("tail_and_medium", [5]), ("none", []),
    ):
        assert trained_behaviors(vocabulary, small_params(sft__labels=labels).sft) == expected


def test_tail_and_medium_are_all_but_head_whatever_is_an_anchor():
    groups = ["head", "medium", "head", "tail", "medium", "tail"]
    vocabulary = all_behaviors().with_columns(group=pl.Series(groups))
    assert trained_behaviors(vocabulary, small_params(sft__labels="tail_and_medium").sft) == [1, 3, 4, 5]


def test_no_adjustment_is_the_plain_loss_and_an_adjustment_another(whole, sequences, tiny_base, tmp_path):
    trainer, counts = run(sequences, tiny_base, tmp_path / "plain", logit_adjustment=0)
    assert trainer.adjustment is None and counts == whole[1]
    same(trainer, whole[0], tolerance=0)
    adjusted, counts = run(sequences, tiny_base, tmp_path / "adjusted", logit_adjustment=1)
    assert (weights_of(adjusted) - weights_of(trainer)).abs().max() > 2e-5
    first = counts["first_validation"]
    assert counts["best_validation"] < first != whole[1]["first_validation"], "validation is adjusted as well"


@pytest.mark.parametrize("labels", ["anchors", "all"])
def test_an_adjusted_run_that_is_resumed_equals_an_uninterrupted_one(
    sequences, tiny_base, tmp_path, monkeypatch, labels
):
    changes = {"logit_adjustment": 1, "epochs": 1, "labels": labels}
    expected, _ = run(sequences, tiny_base, tmp_path / "whole", micro_batch=3, **changes)
    with killed_at(monkeypatch, 2):
        run(sequences, tiny_base, tmp_path / "half", **changes)
    same(run(sequences, tiny_base, tmp_path / "half", **changes)[0], expected)


# labels of few tokens, two of which begin alike, behind always the same prompt: all there is to learn is the prior
SHORT = [[300, 9], [301, 9], [302, 303, 9], [302, 304, 9], [305, 9], [306, 9]]
PROMPT = list(range(20, 40))


@pytest.fixture
def vivid_base(tiny_model, tmp_path):
    """The tiny model with larger embeddings, so that its frozen head can tell tokens apart."""
    shutil.copytree(tiny_model, tmp_path / "vivid")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.get_input_embeddings().weight.data *= 16
    model.save_pretrained(tmp_path / "vivid")
    (tmp_path / "base").mkdir()
    write_manifest(resolve(str(tmp_path / "vivid"), ""), tmp_path / "base")
    return tmp_path / "base"


def test_with_an_adjustment_rare_behaviours_are_learned_as_likelier(vivid_base, tmp_path):
    rows = [
        (PROMPT + SHORT[number], [len(PROMPT)], [len(PROMPT + SHORT[number])], [number], [-1])
        for number, share in enumerate(SHARES) for _ in range(round(100 * share))
    ]
    frame = pl.DataFrame(rows, schema=tables.SCHEMAS["instructions"], orient="row")
    skewed, found = {"train": frame, "valid": frame[::5], "auxiliary": frame.clear()}, {}
    for tau in (0, 1):
        trainer, _ = run(
            skewed, vivid_base, tmp_path / f"run{tau}", micro_batch=20, logit_adjustment=tau, labels="all", epochs=16,
            learning_rate=1e-2, epsilon=0, batch_size=20, validations_per_epoch=1,
        )
        found[tau] = np.exp(score(trainer.model, [PROMPT], SHORT).log_p[0])
    assert np.abs(found[0] - SHARES).sum() < 0.2, "without, the prior"
    assert (found[1][4:] > 1.5 * found[0][4:]).all(), "with, more of what is rare"
    assert np.abs(found[1] - SHARES).sum() > np.abs(found[0] - SHARES).sum()


def test_tokens_that_differ_are_refused_by_name(sequences, tiny_base, tmp_path):
    valid = sequences["valid"]
    ids = [[499] * len(row) for row in valid["input_ids"]]
    changed = sequences | {"valid": valid.with_columns(input_ids=pl.Series(ids, dtype=tables.INTS))}
    with pytest.raises(UserError, match=r"sft.logit_adjustment: '[^']+' has the tokens \[.* in another"):
        run(changed, tiny_base, tmp_path, logit_adjustment=1)


@pytest.mark.parametrize(("split", "says"), [("train", "training"), ("valid", "validation")])
def test_labels_that_no_sequence_has_are_refused(sequences, tiny_base, tmp_path, split, says):
    frame = sequences[split].with_columns(target_behavior=pl.col("target_behavior").list.eval(pl.element() * 0))
    with pytest.raises(UserError, match=f"sft.labels: tail: no {says} sequence has such a label"):
        run(sequences | {split: frame}, tiny_base, tmp_path, labels="tail")


def chats_of(sizes):
    return pl.DataFrame({"input_ids": [list(range(size)) for size in sizes]})


@settings(max_examples=60, database=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12), lengths=st.lists(st.integers(1, 400), min_size=1),
    epsilon=st.floats(0, 3), seed=st.integers(0, 9),
)
def test_epsilon_is_kept_in_tokens_within_half_a_conversation(sizes, lengths, epsilon, seed):
    chosen, counts = auxiliary_share(chats_of(sizes), lengths, epsilon, seed)
    tokens = int(chosen["input_ids"].list.len().sum())
    assert abs(tokens - epsilon * sum(lengths)) <= max(sizes) / 2
    assert (counts["auxiliary_conversations"], counts["auxiliary_tokens"]) == (len(chosen), tokens)
    assert counts["epsilon"] == pytest.approx(tokens / sum(lengths))
    assert counts["auxiliary_passes"] == pytest.approx(tokens / sum(sizes))
    passes = np.bincount([len(ids) for ids in chosen["input_ids"]], minlength=61)
    available = np.bincount(sizes, minlength=61)
    assert (passes <= available * np.ceil(counts["auxiliary_passes"] + 1)).all()


def test_epsilon_0_mixes_nothing_in():
    chosen, counts = auxiliary_share(chats_of([5, 5]), [100], 0, 0)
    assert chosen.is_empty() and counts["epsilon"] == counts["auxiliary_passes"] == 0


def test_few_conversations_are_repeated_each_as_often():
    chosen, counts = auxiliary_share(chats_of([10, 11, 12]), [165], 1.0, 0)
    assert counts["auxiliary_passes"] == pytest.approx(5)
    assert sorted(map(len, chosen["input_ids"])) == [10] * 5 + [11] * 5 + [12] * 5


def test_the_choice_of_conversations_is_seeded():
    def drawn(seed):
        return auxiliary_share(chats_of(range(1, 40)), [100], 1.0, seed)[0]["input_ids"].to_list()

    assert drawn(0) == drawn(0) != drawn(1)


def test_no_conversations_at_all_are_refused_only_where_some_are_wanted():
    empty = chats_of([1]).clear()
    with pytest.raises(UserError, match="sft.epsilon: 0.5: there are no conversations to mix in"):
        auxiliary_share(empty, [100], 0.5, 0)
    assert auxiliary_share(empty, [100], 0, 0)[1]["auxiliary_tokens"] == 0


def test_command(sequences, tiny_base, tiny_model, tmp_path, monkeypatch):
    for name, frame in sequences.items():
        tables.write(frame, "instructions", tmp_path / "instructions" / f"{name}.parquet")
    tables.write(all_behaviors(), "vocabulary", tmp_path / "vocabulary.parquet")
    params = write_params(tmp_path / "params.yaml", small_params(sft__epochs=0.5, sft__batch_size=8))
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [
        "sft", "--params", str(params), "--instructions", str(tmp_path / "instructions"),
        "--vocabulary", str(tmp_path / "vocabulary.parquet"), "--model", str(tiny_base), "--out", str(tmp_path / "sft"),
        "--counts", str(tmp_path / "sft.json"), "--history", str(tmp_path / "sft.csv"),
    ])
    with killed_at(monkeypatch, 2):
        stage.STAGE.main()
    (scratch,) = (tmp_path / "cache" / "checkpoints").iterdir()
    assert latest_in(scratch) and not (tmp_path / "sft").exists() and not (tmp_path / "sft.json").exists()
    half = pl.read_csv(tmp_path / "sft.csv")
    assert half["step"].to_list() == [0, 1] and half[UNFINISHED].to_list() == [2, 2], "it grows, and says so"
    stage.STAGE.main()
    assert not scratch.exists(), "checkpoints are removed when the result is safe"
    assert sorted(path.name for path in (tmp_path / "sft").iterdir()) == [
        "SHA256SUMS", "adapter_config.json", "adapter_model.safetensors", "base.json"
    ]
    assert not any("ref" in name for name in load_file(tmp_path / "sft" / "adapter_model.safetensors"))
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(tmp_path / "sft"))
    metrics = json.loads((tmp_path / "sft.json").read_text(encoding="utf-8"))
    with open(tmp_path / "sft.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == ("step", "epoch", *stage.LOGGED)
    assert float(f"{float(rows[0]['eval_loss']):.{DIGITS}g}") == metrics["first_validation"]
    assert [int(row["step"]) for row in rows] == list(range(metrics["steps"] + 1))


def test_command_without_training(tiny_base, tiny_model, tmp_path, monkeypatch, capsys):
    """No sequence is read: there may be none."""
    for name in ("train", "valid", "auxiliary"):
        empty = pl.DataFrame(schema=tables.SCHEMAS["instructions"])
        tables.write(empty, "instructions", tmp_path / "instructions" / f"{name}.parquet")
    tables.write(all_behaviors(), "vocabulary", tmp_path / "vocabulary.parquet")
    params = write_params(tmp_path / "params.yaml", small_params(sft__labels="none", sft__logit_adjustment=1, seed=3))
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [
        "sft", "--params", str(params), "--instructions", str(tmp_path / "instructions"),
        "--vocabulary", str(tmp_path / "vocabulary.parquet"), "--model", str(tiny_base), "--out", str(tmp_path / "sft"),
        "--counts", str(tmp_path / "sft.json"), "--history", str(tmp_path / "sft.csv"),
    ])
    monkeypatch.setenv("RANK", "1")
    stage.STAGE.main()
    assert not (tmp_path / "sft").exists(), "one process writes"
    monkeypatch.setenv("RANK", "0")
    stage.STAGE.main()
    assert "nothing was trained" in capsys.readouterr().err
    assert list((tmp_path / "cache").rglob("*.*")) == [], "neither checkpoints nor a lock"
    metrics = json.loads((tmp_path / "sft.json").read_text(encoding="utf-8"))
    assert metrics.pop("labels") == "none" and set(metrics.values()) == {0}
    assert (tmp_path / "sft.csv").read_text(encoding="utf-8") == "step,epoch,eval_loss,grad_norm,learning_rate,loss\n"
    untouched = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        for tuned in (load_merged(tmp_path / "sft"), load_adapter(tmp_path / "sft")):
            assert torch.equal(tuned.eval()(ids).logits, untouched(ids).logits)
    fresh = new_adapter(tiny_base, Lora(rank=4, alpha=8, dropout=0), 3).state_dict()
    saved = load_adapter(tmp_path / "sft").state_dict()
    assert fresh.keys() == saved.keys() and all(torch.equal(fresh[name], saved[name]) for name in fresh)


def test_the_metrics_without_training_are_those_of_a_run_but_for_the_validations(whole, tiny_base):
    _, metrics = untuned(small_params(sft__labels="none"), tiny_base)
    assert whole[1].keys() - metrics.keys() == {"first_validation", "best_validation"}
    assert metrics.keys() <= whole[1].keys()
