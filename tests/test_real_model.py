"""What the tiny model cannot show: the embedded model as it comes out of its package, and exactness on it."""

import numpy as np
import polars as pl
import pytest
import torch

from stages.common.draws import positions
from stages.events.simulator.log import BEHAVIORS
from stages.model.likelihood import score
from stages.model.load import load_base, load_tokenizer
from stages.prompts.layout import prompts
from stages.prompts.layouts import make_layout
from stages.prompts.log import EventLog
from stages.prompts.settings import Prompt
from tests.events.helpers import simulated_log
from tests.small_log import vocabulary_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def tokenizer(real_base):
    return load_tokenizer(real_base)


@pytest.fixture(scope="module")
def model(real_base):
    return load_base(real_base, torch.float32).eval()


@pytest.fixture(scope="module")
def windows(tokenizer):
    """Prompts of the default layout over a simulated log, and the 35 answers."""
    events, _ = simulated_log(0, 60, 30, 12)
    labels = vocabulary_of(pl.concat([events.select("behavior"), pl.DataFrame({"behavior": BEHAVIORS})]), 0.01)
    prompt = Prompt(layout="stream", context="next", max_tokens=1024, stream_events=40)
    layout = make_layout(tokenizer, EventLog.from_tables(events, labels), prompt, 20, 5, 0)
    usable = np.flatnonzero(positions(events["user"].to_numpy()) >= 5)
    rows = np.random.default_rng(0).choice(usable, 40, replace=False)
    return prompts(layout, rows), layout.answers


@torch.inference_mode()
def naive(model, prompt, answers):
    """Log-softmax over the candidates, one forward pass for each."""
    sums = []
    for answer in answers:
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(dim=-1)
        steps = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
        sums.append(logits[steps, torch.tensor(answer)].sum())
    return torch.stack(sums).log_softmax(dim=0).numpy()


def test_it_is_the_model_of_135_million_parameters(model, tokenizer):
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(134.5e6, rel=0.001)
    assert (model.config.hidden_size, model.config.num_hidden_layers, len(tokenizer)) == (576, 30, 49152)
    assert tokenizer.chat_template and tokenizer.eos_token == "<|im_end|>"


def test_it_knows_the_capital_of_france(model, tokenizer):
    answers = [tokenizer(name, add_special_tokens=False).input_ids for name in (" London", " Paris", " Berlin")]
    log_p = score(model, [tokenizer("The capital of France is").input_ids], answers).log_p
    assert log_p[0].argmax() == 1 and np.exp(log_p[0, 1]) > 0.5


def test_it_answers_in_its_chat_format(model, tokenizer):
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    said = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(said) and tokenizer.eos_token_id in said


def test_scores_are_those_of_one_candidate_at_a_time(model, windows):
    asked, answers = windows
    assert len(answers) == 35 and max(map(len, answers)) > min(map(len, answers))
    asked = asked[:2]
    expected = np.stack([naive(model, prompt, answers) for prompt in asked])
    np.testing.assert_allclose(score(model, asked, answers).log_p, expected, atol=1e-4, rtol=0)


def test_bf16_agrees_with_float32_on_most_windows(real_base, model, windows):
    exact = score(model, *windows).log_p
    rough = score(load_base(real_base, torch.bfloat16), *windows).log_p
    assert (exact.argmax(axis=1) == rough.argmax(axis=1)).mean() >= 0.85
    assert np.abs(np.exp(exact) - np.exp(rough)).mean() < 0.01
