import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.model import likelihood
from stages.model.likelihood import common_prefix, score

END = 2
ANSWERS = [[40, END], [40, 41, END], [40, 41, 42, END], [50, 51, END], [END], [60, 40, 41, END]]


def tokens(length, seed):
    return np.random.default_rng(seed).integers(3, 400, size=length).tolist()


@pytest.fixture
def sharp_model(sharp_model, reader):
    """Read by each reader in turn."""
    return sharp_model


@torch.inference_mode()
def sums_of(model, prompts, answers):
    """One forward pass for each prompt and candidate, nothing shared, nothing packed."""
    sums = np.empty((len(prompts), len(answers)))
    for i, prompt in enumerate(prompts):
        for k, answer in enumerate(answers):
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(dim=-1)
            steps = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
            sums[i, k] = logits[steps, torch.tensor(answer)].sum()
    return sums


def naive(model, prompts, answers):
    sums = sums_of(model, prompts, answers)
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
def test_many_small_batches_change_nothing(sharp_model, monkeypatch, reads, limit):
    prompts = PROMPTS["different lengths behind a common prefix"] * 2
    whole = score(sharp_model, prompts, ANSWERS)
    monkeypatch.setattr(likelihood, "_TOKENS_A_BATCH", limit)
    reads.clear()
    cut = score(sharp_model, prompts, ANSWERS)
    assert len(reads) > 3 and all(rows * columns <= limit or rows == 1 for rows, columns in reads)
    np.testing.assert_allclose(cut.log_p, whole.log_p, atol=1e-5, rtol=0)
    np.testing.assert_allclose(cut.embedding, whole.embedding, atol=1e-5, rtol=0)


NODES = 3 + 2 + 3  # 40 41 42; 50 51; 60 40 41; an answer's last token is only predicted


def test_a_prompt_is_read_once_and_the_common_prefix_once_for_all(sharp_model, reads):
    prompts = PROMPTS["different lengths behind a common prefix"]
    score(sharp_model, prompts, ANSWERS)
    longest = max(map(len, prompts)) - len(SHARED)
    assert reads == [(1, len(SHARED)), (len(prompts), longest), (len(prompts), NODES)]


def grown(user, sizes):
    """One user's windows while the history grows: each prompt begins with the one before."""
    history = SHARED + tokens(max(sizes), user)
    return [history[: len(SHARED) + size] for size in sizes]


NESTED = {
    "one user": grown(70, (1, 4, 9, 20)),
    "two users": grown(70, (1, 4, 9, 20)) + grown(71, (3, 5, 6, 17)),
    "two that part late": grown(70, (4, 9)) + [[*grown(70, (9,))[0], 7, 8], [*grown(70, (9,))[0], 8, 7]],
    "the same windows again": grown(70, (2, 8, 8, 2)) + grown(71, (3, 5)) + grown(70, (8, 5)),
}
# prompts that are read: rows, and the longest one's tokens behind what all have in common
HOSTS = {"one user": (1, 20), "two users": (2, 20), "two that part late": (2, 8), "the same windows again": (2, 8)}


@pytest.mark.parametrize("case", NESTED)
def test_a_prompt_that_another_begins_with_is_not_read(sharp_model, reads, case):
    prompts = np.random.default_rng(0).permutation(np.array(NESTED[case], dtype=object)).tolist()
    score(sharp_model, prompts, ANSWERS)
    assert reads == [(1, common_prefix(prompts)), HOSTS[case], (len(prompts), NODES)]
    assert sum(rows * columns for rows, columns in reads[:2]) < sum(map(len, prompts)) / 2
    agrees(sharp_model, prompts, ANSWERS)


@pytest.mark.parametrize("limit", [1, 20, 50])
def test_prompts_that_share_a_prefix_may_be_spread_over_batches(sharp_model, monkeypatch, reads, limit):
    monkeypatch.setattr(likelihood, "_TOKENS_A_BATCH", limit)
    agrees(sharp_model, NESTED["the same windows again"], ANSWERS)
    assert len(reads) > 3


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(st.lists(st.lists(st.integers(3, 4), min_size=1, max_size=5), min_size=1, max_size=6))
def test_only_prompts_that_are_no_beginning_of_another_are_read(sharp_model, reads, prompts):
    reads.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "_TOKENS_A_BATCH", 1)
        agrees(sharp_model, prompts, [[40], [END]])  # no tree
    shared = common_prefix(prompts)
    longest = {tuple(p) for p in prompts if not any(len(o) > len(p) and o[: len(p)] == p for o in prompts)}
    own = sorted((len(prompt) - shared for prompt in longest), reverse=True)
    assert reads == [(1, shared)] * (shared > 0) + [(1, size) for size in own]


def test_answers_of_one_token_need_no_tree(sharp_model, reads):
    prompts = NESTED["two users"]
    agrees(sharp_model, prompts, [[END], [40], [41]])
    assert reads == [(1, common_prefix(prompts)), HOSTS["two users"]]


def test_four_hundred_candidates_of_several_tokens(sharp_model):
    rng = np.random.default_rng(0)
    answers = [[*map(int, rng.integers(3, 30, size=rng.integers(1, 5))), 100 + number, END] for number in range(400)]
    prompts = NESTED["two that part late"]
    log_p = score(sharp_model, prompts, answers).log_p
    np.testing.assert_allclose(np.exp(log_p.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    few = [0, 1, 57, 128, 255, 256, 311, 399]
    expected = sums_of(sharp_model, prompts, [answers[number] for number in few])
    found = log_p[:, few] - log_p[:, few[:1]]
    np.testing.assert_allclose(found, expected - expected[:, :1], atol=1e-4, rtol=0)
    assert np.ptp(expected, axis=1).min() > 5


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


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
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


@settings(max_examples=60, database=None)
@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=60), shared=st.integers(0, 600), tree=st.integers(0, 90),
    limit=st.integers(1, 400),
)
def test_what_is_read_and_what_is_seen_at_once_is_limited(sizes, shared, tree, limit):
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    batches = likelihood._batches(order, dict(enumerate(sizes)), shared, limit)
    assert [i for batch in batches for i in batch] == order
    for batch in batches:
        longest = sizes[batch[0]]
        assert len(batch) == 1 or len(batch) * longest <= limit
        assert len(batch) == 1 or len(batch) * (shared + longest) <= likelihood._CACHED_PER_TOKEN * limit
    windows = [(0, i) for i in order]
    runs = likelihood._chunks(windows, tree, shared + max(sizes), limit)
    assert [window for run in runs for window in run] == windows
    for run in runs:
        assert len(run) == 1 or len(run) * tree <= limit
        assert len(run) == 1 or len(run) * (shared + max(sizes)) <= likelihood._CACHED_PER_TOKEN * limit


OWN = [[], [[70, END]], [[70, END], [40, 42, END]], [], [[40, 42, END]]]


@pytest.mark.parametrize("limit", [1, 60, 4096])
def test_further_answers_of_a_prompt_stand_behind_the_others(sharp_model, monkeypatch, limit):
    """And are normalised with them; a prompt without any has the numbers that it has alone, to the bit."""
    monkeypatch.setattr(likelihood, "_TOKENS_A_BATCH", limit)
    prompts = PROMPTS["different lengths behind a common prefix"]
    found = score(sharp_model, prompts, ANSWERS, own=OWN)
    assert found.log_p.shape == (5, 8) and found.log_p.dtype == np.float32
    for prompt, own, log_p in zip(prompts, OWN, found.log_p, strict=True):
        count = len(ANSWERS) + len(own)
        np.testing.assert_allclose(log_p[:count], naive(sharp_model, [prompt], ANSWERS + own)[0], atol=1e-4, rtol=0)
        assert (log_p[count:] == -np.inf).all()
    np.testing.assert_allclose(found.embedding, plain_embedding(sharp_model, prompts), atol=1e-4, rtol=0)
    alone = [place for place, own in enumerate(OWN) if not own]
    if limit == 1:  # else others stand in their batches
        plain = score(sharp_model, prompts, ANSWERS)
        assert np.array_equal(found.log_p[alone, : len(ANSWERS)], plain.log_p[alone])


def test_prompts_without_further_answers_are_read_as_ever(sharp_model, reads):
    prompts = NESTED["two users"]
    plain, read = score(sharp_model, prompts, ANSWERS), list(reads)
    reads.clear()
    found = score(sharp_model, prompts, ANSWERS, own=[[] for _ in prompts])
    assert reads == read and np.array_equal(found.log_p, plain.log_p)
