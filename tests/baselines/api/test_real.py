"""API models against a server that nobody wrote for us: transformers' own, before the real small model."""

import os
import socket
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.baselines.api.__main__ import Settings, predictions
from stages.baselines.api.cache import Cache, key_of
from stages.baselines.api.client import endpoint
from stages.baselines.api.questions import Questions
from stages.baselines.fitting.task import Task
from stages.model.resolve import read_manifest, weights_folder
from stages.prompts.log import EventLog
from tests.small_log import all_behaviors, small_log, small_params, small_windows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def folder(real_base):
    return weights_folder(read_manifest(real_base))


@pytest.fixture(scope="module")
def address(folder, tmp_path_factory):
    pytest.importorskip("uvicorn", reason="`transformers serve` needs it")
    pytest.importorskip("fastapi", reason="`transformers serve` needs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = tmp_path_factory.mktemp("serve") / "log"
    words = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder),
             "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with said.open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(600):
            assert server.poll() is None, said.read_text()
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture
def task(tmp_path, monkeypatch, address):
    monkeypatch.setenv("OPENAI_API_KEY", "none is asked for")
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    events = small_log((4, 4, 5, 5, 9, 5))
    windows = small_windows(events, ("train", "train", "valid", "valid", "natural", "balanced"))
    return Task(events, windows, all_behaviors(), small_params(), tmp_path / "params.yaml", "next")


def settings(folder, form):
    return Settings(model=str(folder), answer=form, mass=0.5, max_tokens_total=100_000, natural=2, per_behavior=1,
                    parallel=2, attempts=2, timeout=600)


def test_its_answers_are_what_the_model_writes(task, folder, tmp_path):
    cache = Cache(tmp_path / "answers")
    frame, facts = predictions(task, settings(folder, "text"), cache)
    questions = Questions(EventLog.from_tables(task.events, task.vocabulary), task.params, "next", str(folder), "text")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    used = estimated = 0
    numbers = []
    for row in frame["row"].to_list():
        request = questions.request(row)
        answer = cache.get(key_of(endpoint(), request))
        ids = tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True, return_dict=True,
                                            return_tensors="pt")
        length = ids["input_ids"].shape[1]
        written = model.generate(**ids, do_sample=False, max_new_tokens=request["max_tokens"])[0, length:]
        assert answer.content == tokenizer.decode(written, skip_special_tokens=True)
        assert answer.prompt_tokens == length
        used, estimated = used + answer.tokens(0), estimated + questions.estimate(request)
        numbers.append(questions.read(answer))
    assert used <= estimated
    label = np.array([questions.labels.index(name) for name in frame["behavior"]])
    hit = np.array(frame["log_p"].to_list()).argmax(axis=1) == label
    assert (hit == (np.array(numbers) == label)).all()
    counted = pl.DataFrame(list(facts["answers"].values())).sum().row(0, named=True)
    assert counted["valid"] == sum(number >= 0 for number in numbers) and sum(counted.values()) == len(frame)
    print(f"valid {counted['valid']} of {len(frame)}, {used} tokens used, {estimated} estimated")


def test_a_server_that_ignores_the_schema_gives_answers_that_count_as_invalid(task, folder, tmp_path):
    frame, facts = predictions(task, settings(folder, "schema"), Cache(tmp_path / "answers"))
    counted = pl.DataFrame(list(facts["answers"].values())).sum().row(0, named=True)
    assert counted["invalid"] == len(frame)
