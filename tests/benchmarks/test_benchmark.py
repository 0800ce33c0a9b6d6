import json
import sys

import pytest
import torch
from rich.console import Console
from rich.text import Text

import stages.commands.benchmark as command
from stages.benchmarks import timing
from stages.benchmarks.machine import EXTRA, heading
from stages.benchmarks.timing import Comparison, Row
from stages.common.errors import UserError
from tests.benchmarks.conftest import TINY
from tests.events.helpers import params_with, write_params


@pytest.fixture
def run(tiny_base, tmp_path, monkeypatch, capsys):
    """Runs the command on a small simulated log and the tiny model; its JSON, and what it printed."""
    params = write_params(tmp_path / "params.yaml", params_with(
        simulator__users=120, simulator__days=8, windowing__natural=5, prompt__max_tokens=2048,
    ))
    monkeypatch.setattr(command, "QUICK", TINY)
    threads = torch.get_num_threads()

    def call(*options):
        out = tmp_path / "metrics" / "benchmark.json"
        monkeypatch.setattr(sys, "argv", ["benchmark", "--quick", "--params", str(params), "--model", str(tiny_base),
                                          "--out", str(out), *options])
        command.main()
        printed = capsys.readouterr()
        return json.loads(out.read_text(encoding="utf-8")), printed.out, printed.err

    yield call
    torch.set_num_threads(threads)


def test_command(run):
    found, table, _ = run("--only", "dpo,sft", "--rounds", "1", "--ours-only", "--threads", "3")
    assert list(found["comparisons"]) == ["sft", "dpo"] and found["quick"] and found["rounds"] == 1
    assert found["machine"]["threads"] == 3 and found["machine"]["dtype"] == "float32" and found["versions"]["torch"]
    speed = found["comparisons"]["sft"]["rows"][0]
    assert speed["baseline"] is None and len(speed["ours"]["rounds"]) == 1
    assert "labelled targets/s" in table and "FLOPs used" in table and "threads" in table


def test_a_missing_baseline_is_one_line_and_no_traceback(run, monkeypatch):
    from stages.benchmarks import scoring

    for module in (command.machine, scoring):
        monkeypatch.setattr(module, "installed", lambda name: False)
    found, _, said = run("--only", "scoring")
    rows = found["comparisons"]["scoring"]["rows"]
    assert [row["baseline"] for row in rows] == [None] * 3 and rows[0]["ours"]["median"] > 0
    assert said.count(EXTRA) == 1 and "lm_eval" in said and "Traceback" not in said


def test_what_is_done_is_written_before_the_next_begins(run, tmp_path, monkeypatch):
    from stages.benchmarks import dpo

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(dpo, "compare", die)
    with pytest.raises(KeyboardInterrupt):
        run("--only", "sft,dpo", "--rounds", "1", "--ours-only")
    saved = json.loads((tmp_path / "metrics" / "benchmark.json").read_text(encoding="utf-8"))
    assert list(saved["comparisons"]) == ["sft"]


def test_an_unknown_comparison_is_named(run):
    with pytest.raises(UserError, match="'speed': no such comparison; there are ingest"):
        run("--only", "speed")


def test_table():
    rows = [
        Row("SFT", "TRL", "targets/s", [50.0, 60.0, 55.0], [2.0, 2.2, 2.1], target=25, note="batch 1"),
        Row("accuracy", "TRL", "accuracy", [0.5], [0.4], rule="higher"),
        Row("difference", "the same", "largest", [2e-5], rule="at_most", target=1e-3),
        Row("left", "", "s", [], rule="times", target=15),
    ]
    assert timing.cells(rows[0]) == (
        "SFT, targets/s", "TRL (batch 1)", "55 (50–60)", "2.1 (2–2.2)", "26.2 x", "≥ 25 x", Text("yes", "green")
    )
    assert timing.cells(rows[1])[4:] == ("1.2 x", "higher", Text("yes", "green"))
    assert timing.cells(rows[2])[2:6] == ("2e-05", "–", "", "≤ 0.001")
    assert timing.cells(rows[3])[2:] == ("–", "–", "", "≥ 15 x", "")
    console = Console(width=160, record=True)
    console.print(timing.table({"sft": Comparison(rows)}))
    assert "26.2 x" in console.export_text()


def test_heading():
    machine = {"processor": "a CPU", "cores": 2, "memory_bytes": 2**34, "accelerator": None, "threads": 2,
               "dtype": "bf16"}
    assert heading(machine, {"torch": "2.0", "lm_eval": None}) == (
        "a CPU, 2 cores, 16 GiB; 2 threads, bf16\ntorch 2.0, lm_eval (not installed)"
    )
