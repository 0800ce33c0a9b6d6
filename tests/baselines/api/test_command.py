"""The command, with and without a key, and killed on its way."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from stages.baselines.api.__main__ import STAGE
from stages.common import tables
from stages.common.errors import run
from stages.common.files import read_json
from tests.baselines.api.case import ANY, SETTINGS
from tests.baselines.api.server import Reply, named
from tests.small_log import BEHAVIORS


@pytest.fixture
def command(case, tmp_path, monkeypatch):
    """The words that run the command on the case's tables, its cache in a folder of its own."""
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path / "cache"))
    for name in ("events", "windows", "vocabulary"):
        tables.write(getattr(case.task, name), name, tmp_path / f"{name}.parquet")
    (tmp_path / "settings.yaml").write_text(
        "budget: {trials: 1, valid_windows: 1, patience: 1, windows_per_validation: 1}\n"
        f"api: {SETTINGS.model_dump_json()}\n"
    )
    (tmp_path / "params.json").write_text(case.task.params.model_dump_json(by_alias=True))
    words = ["--context", "next", "--params", tmp_path / "params.json", "--settings", tmp_path / "settings.yaml",
             "--out", tmp_path / "api.parquet", "--counts", tmp_path / "counts.json"]
    for name in ("events", "windows", "vocabulary"):
        words += [f"--{name}", tmp_path / f"{name}.parquet"]
    return [str(word) for word in words]


def run_here(words, monkeypatch):
    """The exit status of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["api", *words])
    with pytest.raises(SystemExit) as ended:
        run(STAGE.main)
    return ended.value.code


def test_no_key_no_baseline(command, server, monkeypatch, tmp_path, capsys):
    seen = server(ANY)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert run_here(command, monkeypatch) == 0 and seen.bodies == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "API models are left out, as OPENAI_API_KEY is not set" in said
    assert not (tmp_path / "api.parquet").exists() and not (tmp_path / "counts.json").exists()


def test_killed_between_answers_it_asks_for_the_rest_only(command, case, server, monkeypatch, tmp_path):
    answered, killed = 5, threading.Event()
    def rule(body, number):
        if number == answered:
            killed.wait(100)
            return Reply(closes=True)
        return named(BEHAVIORS[len(json.dumps(body["messages"])) % 3])

    seen = server(rule)
    words = [sys.executable, "-m", "stages.baselines.api", *command]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while len(seen.bodies) <= answered:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    killed.set()
    assert not (tmp_path / "api.parquet").exists()
    before = len(seen.bodies)
    assert run_here(command, monkeypatch) == 0
    assert len(seen.bodies) - before == len(case.wanted) - answered
    assert not set(seen.prompts()[:answered]) & set(seen.prompts()[before:])
    frame, facts = tables.read("predictions", tmp_path / "api.parquet"), read_json(tmp_path / "counts.json")
    assert frame.equals(case.run()[0]) and facts["windows"] == len(frame)
