"""Two processes, really two, equal one: what is trained, scored and predicted; one writes and speaks for both."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from stages.common import tables
from stages.instructions import instructions
from tests.events.helpers import write_params
from tests.small_log import BEHAVIORS, all_behaviors, sft_adapter, small_log, small_params, small_windows

ROOT = Path(__file__).parents[2]
LAUNCHED = Path(__file__).with_name("launched.py")
CHATS = pl.DataFrame({"turns": [[f"What about {n}?", "It is" + " so" * (5 * n) + "."] for n in range(6)]})
TABLES = ("events", "windows", "vocabulary")
# 3 steps an epoch, the last of which has fewer samples than there are places
TRAINING = {"batch_size": 8, "epochs": 2, "learning_rate": 3e-3, "validations_per_epoch": 2, "patience": 100}


@pytest.fixture(scope="module")
def place(tiny_base, tmp_path_factory) -> Path:
    """A folder with all that the stages read."""
    from stages.model.load import load_tokenizer

    folder = tmp_path_factory.mktemp("run")
    events = small_log([30, 30, 20, 20, 15, 20])
    windows = small_windows(events, ["train", "train", "train", "train", "valid", "natural"])
    params = small_params(
        **{f"{stage}__{key}": value for stage in ("sft", "dpo") for key, value in TRAINING.items()},
        sft__epsilon=0.1, sft__labels="all", dpo__valid_per_behavior=2, dpo__nll_weight=0.5,
        scoring__pool_per_behavior=7, predictions__valid_natural=5, predictions__valid_per_behavior=1,
    )
    write_params(folder / "params.yaml", params)
    for name, frame in instructions(
        events, windows, all_behaviors(), CHATS, load_tokenizer(tiny_base), params
    )[0].items():
        tables.write(frame, "instructions", folder / "instructions" / f"{name}.parquet")
    rng = np.random.default_rng(0)
    rows = rng.permutation(windows.filter(split="train")["row"].to_numpy())[:19]
    chosen = events["behavior"].gather(rows).to_list()
    pairs = pl.DataFrame({
        "row": rows, "chosen": chosen, "difficulty": [0.5] * 19,
        "rejected": [str(rng.choice([name for name in BEHAVIORS if name != one])) for one in chosen],
    }).select(tables.SCHEMAS["pairs"].keys()).cast(tables.SCHEMAS["pairs"])
    for name, frame in {"events": events, "windows": windows, "vocabulary": all_behaviors(), "pairs": pairs}.items():
        tables.write(frame, name, folder / f"{name}.parquet")
    sft_adapter(tiny_base, folder / "tuned")
    return folder


@pytest.fixture(scope="module")
def run(place, tiny_base, warm_python):
    """Runs a stage in some processes: its folder, its status, what it printed."""
    reads = {
        "sft": {"instructions": "instructions", "vocabulary": "vocabulary.parquet", "model": tiny_base},
        "dpo": {name: f"{name}.parquet" for name in (*TABLES, "pairs")} | {"model": "tuned"},
        "scoring": {name: f"{name}.parquet" for name in TABLES} | {"model": "tuned"},
        "predictions": {name: f"{name}.parquet" for name in TABLES} | {"model": "tuned"},
    }

    def run_stage(stage, processes, out, fault="none", **changes):
        folder = place / f"{stage}-{out}"
        folder.mkdir(exist_ok=True)
        options = {"params": "params.yaml"} | reads[stage] | changes
        options |= {"out": folder / "out", "counts": folder / "counts.json"}
        if stage in ("sft", "dpo"):
            options["history"] = folder / "history.csv"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
        command = [warm_python, *(launcher if processes > 1 else ()), LAUNCHED, stage, fault,
                   *(word for name, value in options.items() for word in (f"--{name}", value))]
        result = subprocess.run(
            [str(word) for word in command], cwd=place, text=True, check=False, capture_output=True, timeout=280,
            env=os.environ | {"PYTHON_EXEC": str(warm_python), "PYTHONPATH": str(ROOT),
                              "BEHAVIORLM_CACHE": str(folder / "cache"), "BEHAVIORLM_DTYPE": "float32",
                              "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )
        return folder, result.returncode, result.stdout + result.stderr

    return run_stage


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_two_that_train_equal_one(run, stage):
    (one, status, alone), (two, other, said) = run(stage, 1, "one"), run(stage, 2, "two")
    assert (status, other) == (0, 0), alone + said
    before, after = (load_file(folder / "out" / "adapter_model.safetensors") for folder in (one, two))
    assert before.keys() == after.keys()
    for name, weights in before.items():
        np.testing.assert_allclose(after[name], weights, atol=1e-5, rtol=0)
    first, second = (json.loads((folder / "counts.json").read_text()) for folder in (one, two))
    assert first["best_step"] == first["steps"] == 6, "the adapters that were compared are the trained ones"
    assert numbers(second) == pytest.approx(numbers(first), rel=1e-5)
    first, second = (history(folder / "history.csv") for folder in (one, two))
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert second[name] == pytest.approx(values, rel=1e-4, abs=1e-5, nan_ok=True), name
    assert said.count("6 of 6 in ") == 1, "one speaks"


@pytest.mark.parametrize("stage", ["scoring", "predictions"])
def test_two_that_score_share_the_windows_and_write_the_bytes_that_one_writes(run, stage):
    (one, status, alone), (two, other, said) = run(stage, 1, "one"), run(stage, 2, "two")
    assert (status, other) == (0, 0), alone + said
    for name in ("out", "counts.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    windows = json.loads((one / "counts.json").read_text())["windows"]
    ((own, shown),) = re.findall(r"\(process 1 of 2\): (\d+) of (\d+) in ", said)
    assert own == shown and 0 < int(own) < windows


def test_what_both_fail_of_is_said_once(run):
    _, status, said = run("scoring", 2, "both", windows="nowhere.parquet")
    assert status and said.count("error: nowhere.parquet: no such file") == said.count("error: ") == 1


@pytest.mark.parametrize(("fault", "says"), [("user", "error: process 1 of 2: the second fails"),
                                             ("defect", "ArithmeticError: the second has a defect")])
def test_a_process_that_fails_ends_the_other_with_one_error(run, fault, says):
    folder, status, said = run("scoring", 2, fault, fault)
    assert status and said.count(says) == 1
    assert said.count("Traceback (most recent call last)") == 1 + (fault == "defect"), "one is the launcher's own"
    assert not (folder / "out").exists() and not (folder / "counts.json").exists()


def numbers(counts):
    return {name: value for name, value in counts.items() if not isinstance(value, str)}


def history(path):
    """Columns of numbers; on pairs that the policy and its reference like equally the sign of a margin is noise."""
    frame = pl.read_csv(path)
    columns = {name: frame[name].cast(pl.Float64).fill_null(np.nan).to_list() for name in frame.columns}
    return {name: values[2:] if name == "rewards/accuracies" else values for name, values in columns.items()}
