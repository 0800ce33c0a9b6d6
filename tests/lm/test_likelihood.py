import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.lm import likelihood
from stages.lm.likelihood import common_prefix, score

END = 2
ANSWERS = [[40, END], [40, 41, END], [40, 41, 42, END], [50, 51, END], [END], [60, 40, 41, END]]


def tokens(length, seed):
    return np.random.default_rng(seed).integers(3, 400, size=length).tolist()


@torch.inference_mode()
def naive(model, prompts, answers):
    """One forward pass for each prompt and candidate, nothing shared, nothing packed."""
    sums = np.empty((len(prompts), len(answers)))
    for i, prompt in enumerate(prompts):
        for k, answer in enumerate(answers):
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(dim=-1)
            steps = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
            sums[i, k] = logits[steps, torch.tensor(answer)].sum()
    return sums - np.log(np.exp(sums - sums.max(1, keepdims=True)).sum(1, keepdims=True)) - sums.max(1, keepdims=True)


@torch.inference_mode()
def plain_embedding(model, prompts):
    last = [model.get_decoder()(torch.tensor([prompt])).last_hidden_state[0, -1] for prompt in prompts]
    return torch.nn.functional.normalize(torch.stack(last), dim=1).numpy()


def agrees(model, prompts, answers):
    found = score(model, prompts, answers)
    assert found.log_p.dtype == found.embedding.dtype == np.float32
    np.testing.assert_allclose(found.log_p, naive(model, prompts, answers), atol=1e-4, rtol=0)
    np.testing.assert_allclose(found.embedding, plain_embedding(model, prompts), atol=1e-4, rtol=0)


SHARED = tokens(12, 0)
PROMPTS = {
    "different lengths behind a common prefix": [SHARED + tokens(length, length) for length in (1, 5, 9, 2, 30)],
    "nothing in common": [tokens(length, 50 + length) for length in (7, 3, 12)],
    "one prompt": [tokens(9, 1)],
    "one prompt of one token": [[7]],
    "the same prompt again": [SHARED, SHARED, SHARED],
    "a prompt that another begins with": [SHARED, SHARED + [5], SHARED + [5, 6]],
    "prompts of one token": [[7], [8], [7]],
}


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS.keys())
def test_scores_are_those_of_one_candidate_at_a_time(sharp_model, prompts):
    agrees(sharp_model, prompts, ANSWERS)


def test_the_models_probabilities_are_far_from_even(sharp_model):
    log_p = score(sharp_model, PROMPTS["nothing in common"], ANSWERS).log_p
    assert np.ptp(log_p, axis=1).min() > 5, "else the comparisons above would say little"
    assert np.abs(np.diff(log_p, axis=0)).max() > 1


@pytest.mark.parametrize("answers", [[[END], [40], [41]], [[40, END]], [[5, 6, 7, 8, 9, END], [END]]])
def test_answers_of_one_token_and_a_single_answer(sharp_model, answers):
    agrees(sharp_model, PROMPTS["different lengths behind a common prefix"], answers)


@pytest.mark.parametrize("limit", [1, 40, 100])
def test_many_small_batches_change_nothing(sharp_model, monkeypatch, limit):
    prompts = PROMPTS["different lengths behind a common prefix"] * 2
    whole = score(sharp_model, prompts, ANSWERS)
    monkeypatch.setattr(likelihood, "_TOKENS_A_BATCH", limit)
    seen = []
    body = sharp_model.get_decoder()
    hook = body.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape),
                                          with_kwargs=True)
    cut = score(sharp_model, prompts, ANSWERS)
    hook.remove()
    assert len(seen) > 2 and all(rows * columns <= limit or rows == 1 for rows, columns in seen)
    np.testing.assert_allclose(cut.log_p, whole.log_p, atol=1e-5, rtol=0)
    np.testing.assert_allclose(cut.embedding, whole.embedding, atol=1e-5, rtol=0)


def test_a_prompt_is_read_once_and_the_common_prefix_once_for_all(sharp_model):
    prompts = PROMPTS["different lengths behind a common prefix"]
    seen = []
    hook = sharp_model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    score(sharp_model, prompts, ANSWERS)
    hook.remove()
    nodes = 3 + 2 + 3  # 40 41 42; 50 51; 60 40 41; an answer's last token is only predicted
    longest = max(map(len, prompts)) - len(SHARED)
    assert seen == [(1, len(SHARED)), (len(prompts), longest + nodes)]


def test_the_order_of_the_prompts_does_not_matter(sharp_model):
    prompts = PROMPTS["different lengths behind a common prefix"]
    order = [3, 0, 4, 1, 2]
    straight, shuffled = score(sharp_model, prompts, ANSWERS), score(sharp_model, [prompts[i] for i in order], ANSWERS)
    np.testing.assert_allclose(shuffled.log_p, straight.log_p[order], atol=1e-5, rtol=0)
    np.testing.assert_allclose(shuffled.embedding, straight.embedding[order], atol=1e-5, rtol=0)


def test_a_label_that_begins_another_wins_where_the_terminator_is_likelier(sharp_model, tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    answers = [tokenizer(f" {label}\n").input_ids for label in ("Watching video", "Watching video clip")]
    assert answers[1][: len(answers[0]) - 1] == answers[0][:-1]
    prompts = [tokens(6, seed) for seed in range(20)]
    agrees(sharp_model, prompts, answers)
    winners = score(sharp_model, prompts, answers).log_p.argmax(axis=1)
    assert 0 in winners, "without its terminator the shorter label could never be less likely, nor the longer one win"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(data=st.data())
def test_any_prompts_and_any_answers(sharp_model, data):
    token = st.integers(3, 8)
    prompts = data.draw(st.lists(st.lists(token, min_size=1, max_size=8), min_size=1, max_size=4))
    answers = data.draw(st.lists(st.lists(token, max_size=4).map(lambda a: [*a, END]), min_size=1, max_size=4))
    agrees(sharp_model, prompts, answers)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_common_prefix_is_the_longest_that_leaves_a_token_of_each_prompt(prompts):
    size = common_prefix(prompts)
    assert all(prompt[:size] == prompts[0][:size] and len(prompt) > size for prompt in prompts)
    assert not all(prompt[: size + 1] == prompts[0][: size + 1] and len(prompt) > size + 1 for prompt in prompts)


def test_scoring_keeps_no_gradients_and_ends_training_mode(sharp_model):
    sharp_model.train()
    score(sharp_model, [[5, 6]], [[END]])
    assert not sharp_model.training
