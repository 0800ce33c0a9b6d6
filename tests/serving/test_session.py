"""A session says what `likelihood.score` says of the whole prompt, however the events came."""

import contextlib
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.model.likelihood import score
from stages.model.llama import LlamaDecoder
from stages.model.reader import PlainReader
from stages.serving import session
from stages.serving.session import Session, SharedModel

END = 9
PREFIX = [11, 12, 13, 14]
ANSWERS = [[40, 41, 42, END], [40, 43, END], [50, END], [51, 52, 53, 54, END], [60, 61, END], [END]]
LENGTH, MAX_TOKENS = 4, 64


@pytest.fixture(scope="module", params=[LlamaDecoder, PlainReader], ids=["fast", "plain"])
def candidates(sharp_model, request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param is PlainReader:
            patch.setattr(session, "make_reader", lambda model, few_tokens: PlainReader(model))
        made = SharedModel(sharp_model, PREFIX, ANSWERS, LENGTH, MAX_TOKENS)
    assert type(made.reader) is request.param
    return made


def happening(rng):
    """Context and candidate of an event."""
    return rng.integers(20, 36, rng.integers(1, 4)).tolist(), int(rng.integers(len(ANSWERS)))


def whole(model, person, context):
    return score(model, [PREFIX + person.history() + context], ANSWERS).log_p[0]


def agrees(model, person, context):
    """The session's probabilities of all candidates are the whole prompt's."""
    scored = person.score(context)
    expected = whole(model, person, context)  # of what is left of the history, had it to be cut
    assert sorted(scored.candidates) == list(range(len(ANSWERS)))
    np.testing.assert_allclose(np.log(scored.low), expected[scored.candidates], atol=1e-4, rtol=0)
    np.testing.assert_allclose(scored.low, scored.high, atol=1e-6)
    assert (np.diff(scored.low) <= 1e-6).all(), "best first"


def spy(candidates, monkeypatch):
    """Tokens of each pass through the model."""
    extend, read = candidates.reader.extend, []

    def recorded(ids, *rest):
        read.append(ids.tolist())
        return extend(ids, *rest)

    monkeypatch.setattr(candidates.reader, "extend", recorded)
    return read


@pytest.mark.parametrize("ahead", [1, 9, 1000])
def test_a_session_agrees_with_the_whole_prompt_over_several_histories(sharp_model, candidates, monkeypatch, ahead):
    monkeypatch.setattr(session, "_TOKENS_AHEAD", ahead)
    rng, person, events, lengths = np.random.default_rng(0), Session(candidates), [], []
    for _ in range(5 * LENGTH):
        context, candidate = happening(rng)
        agrees(sharp_model, person, context)
        events.append(context + ANSWERS[candidate])
        person.append(events[-1], candidate)
        lengths.append(person.current.events)
        assert person.history() == list(chain(*events[-lengths[-1] :])), "the latest events, in order, none left out"
    assert max(lengths) < 2 * LENGTH and min(lengths[LENGTH - 1 :]) == LENGTH, "between L and 2 L - 1 once there are L"
    assert lengths[-1] >= LENGTH


def test_each_event_is_read_at_most_twice_and_nothing_else_again(sharp_model, monkeypatch):
    shared = SharedModel(sharp_model, PREFIX, ANSWERS, LENGTH, MAX_TOKENS)
    read = spy(shared, monkeypatch)
    rng, person, size = np.random.default_rng(1), Session(shared), 0
    for _ in range(40):
        context, candidate = happening(rng)
        person.score(context)
        person.append(context + ANSWERS[candidate], candidate)
        size += 2 * (len(context) + len(ANSWERS[candidate]))
    assert len(read) == 40, "one pass each"
    assert sum(map(len, read)) <= size + 40 * len(person.tree.tokens)


def test_a_context_that_came_true_is_not_read_again(sharp_model, monkeypatch):
    shared = SharedModel(sharp_model, PREFIX, ANSWERS, LENGTH, MAX_TOKENS)
    read = spy(shared, monkeypatch)
    person = Session(shared)
    person.score([20, 21, 22])
    person.append([20, 21, 22, *ANSWERS[2]], 2)
    agrees(sharp_model, person, [23])
    assert read[1][: len(ANSWERS[2]) + 1] == [*ANSWERS[2], 23]
    person.append([24, *ANSWERS[1]], 1)  # it did not
    agrees(sharp_model, person, [25, 26])
    assert read[2][:6] == [24, *ANSWERS[1], 25, 26]


def test_questions_without_events_between_them_and_events_without_questions(sharp_model, candidates):
    rng, person = np.random.default_rng(2), Session(candidates)
    agrees(sharp_model, person, [20])
    agrees(sharp_model, person, [20])
    agrees(sharp_model, person, [21, 22])
    for _ in range(3 * LENGTH + 1):
        context, candidate = happening(rng)
        person.append(context + ANSWERS[candidate], candidate)
    agrees(sharp_model, person, [21, 22])
    person.append([20, 70, 71, END], -1)  # of no candidate
    agrees(sharp_model, person, [23])


def test_many_events_at_once(sharp_model, candidates):
    rng, person = np.random.default_rng(3), Session(candidates)
    events = [(context + ANSWERS[candidate], candidate) for context, candidate in (happening(rng) for _ in range(30))]
    person.extend(events)
    assert person.history() == list(chain(*(event for event, _ in events[-LENGTH:])))
    agrees(sharp_model, person, [20, 30])
    person.append([20, 30, *ANSWERS[0]], 0)
    agrees(sharp_model, person, [20])


def test_no_prompt_is_longer_than_the_limit(sharp_model):
    short = SharedModel(sharp_model, PREFIX, ANSWERS, LENGTH, 24)
    rng, person = np.random.default_rng(4), Session(short)
    for number in range(30):
        context = rng.integers(20, 36, rng.integers(1, 8)).tolist()
        agrees(sharp_model, person, context)
        assert len(PREFIX) + len(person.history()) + len(context) + 5 <= 24
        event = context + ANSWERS[number % len(ANSWERS)]
        before = person.history()
        person.append(event, number % len(ANSWERS))
        assert (before + event)[-len(person.history()) :] == person.history() or not person.history()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(data=st.data(), guessed=st.integers(0, 8))
def test_the_order_of_the_best_is_exact_and_their_probabilities_lie_within_the_bounds(
    sharp_model, candidates, monkeypatch, data, guessed
):
    monkeypatch.setattr(session, "_GUESSED_TOKENS", guessed)
    person = Session(candidates)
    for context in data.draw(st.lists(st.lists(st.integers(20, 36), min_size=1, max_size=3), min_size=1, max_size=6)):
        top = data.draw(st.integers(1, len(ANSWERS)))
        expected = whole(sharp_model, person, context)
        scored = person.score(context, top)
        order = np.argsort(-expected, kind="stable")[:top]
        np.testing.assert_allclose(expected[scored.candidates], expected[order], atol=1e-4, rtol=0)
        p = np.exp(expected[scored.candidates])
        assert (scored.low <= p + 1e-5).all() and (p <= scored.high + 1e-5).all()
        person.append(context + ANSWERS[int(order[0])], int(order[0]))


def test_what_cannot_win_is_not_read(sharp_model, monkeypatch):
    shared = SharedModel(sharp_model, PREFIX, ANSWERS, LENGTH, MAX_TOKENS)
    read = spy(shared, monkeypatch)
    rng, person = np.random.default_rng(5), Session(shared)
    monkeypatch.setattr(session, "_GUESSED_TOKENS", 2)
    for _ in range(12):
        context, candidate = happening(rng)
        person.score(context, 1)
        person.append(context + ANSWERS[candidate], candidate)
    several = sum(map(len, read))
    read.clear()
    rng, person = np.random.default_rng(5), Session(shared)
    for _ in range(12):
        context, candidate = happening(rng)
        person.score(context)
        person.append(context + ANSWERS[candidate], candidate)
    assert several < sum(map(len, read))


@pytest.mark.parametrize("limit", [34, 45])
def test_a_limit_of_tokens_halves_the_history_and_no_less(sharp_model, limit):
    person, before = Session(SharedModel(sharp_model, PREFIX, ANSWERS, LENGTH, limit)), 0
    for _ in range(30):
        agrees(sharp_model, person, [20, 21])
        person.append([20, 21, *ANSWERS[0]], 0)
        assert person.current.events >= (before + 1) // 2
        before = person.current.events


def score_with_a_failing_pass(monkeypatch, candidates, person, context, failing):
    """Ask for the likeliest two; of the passes that it takes, the one of that number runs out of memory."""
    extend, passes = candidates.reader.extend, []

    def fails(*args):
        passes.append(1)
        if len(passes) == failing:
            raise MemoryError
        return extend(*args)

    with monkeypatch.context() as patch, contextlib.suppress(MemoryError):
        patch.setattr(candidates.reader, "extend", fails)
        person.score(context, 2)


@pytest.mark.parametrize("failing", [1, 2])
def test_a_pass_that_fails_leaves_nothing_wrong_behind(sharp_model, candidates, monkeypatch, failing):
    monkeypatch.setattr(session, "_GUESSED_TOKENS", 1)
    monkeypatch.setattr(session, "_TOKENS_AHEAD", 1)
    rng, person = np.random.default_rng(8), Session(candidates)
    for _ in range(4 * LENGTH):
        context, candidate = happening(rng)
        score_with_a_failing_pass(monkeypatch, candidates, person, context, failing)
        agrees(sharp_model, person, context)
        person.append(context + ANSWERS[candidate], candidate)


def behind(rng):
    """An event whose context, if any, stands behind its label, and its candidate."""
    context, candidate = happening(rng)
    return ANSWERS[candidate] + context[1:], candidate


@pytest.mark.parametrize("limit", [MAX_TOKENS, 24])
@pytest.mark.parametrize("ahead", [1, 9, 1000])
def test_where_no_context_is_told_a_session_agrees_with_the_whole_prompt_too(sharp_model, monkeypatch, ahead, limit):
    monkeypatch.setattr(session, "_TOKENS_AHEAD", ahead)
    shared = SharedModel(sharp_model, PREFIX, ANSWERS, LENGTH, limit)
    rng, person, events = np.random.default_rng(7), Session(shared), []
    for number in range(5 * LENGTH):
        for _ in range(number % 3):  # not asked, asked, asked again with nothing new to be read
            agrees(sharp_model, person, [])
        event, candidate = behind(rng)
        events += event
        person.append(event, candidate)
        assert not person.history() or events[-len(person.history()) :] == person.history()
        assert len(PREFIX) + len(person.history()) + shared.all.tree.depth.max() + 2 <= limit
    person.extend(behind(rng) for _ in range(2 * LENGTH))
    agrees(sharp_model, person, [])
    agrees(sharp_model, person, [20, 21])
    agrees(sharp_model, person, [])


def test_without_context_only_one_token_is_read_again_and_only_if_nothing_is_new(sharp_model, monkeypatch):
    shared = SharedModel(sharp_model, PREFIX, ANSWERS, LENGTH, MAX_TOKENS)
    read, tokens = spy(shared, monkeypatch), len(shared.all.tree.tokens)
    person = Session(shared)
    person.score([])
    person.append([*ANSWERS[2], 20], 2)
    person.score([])
    person.score([])
    assert [ids[: len(ids) - tokens] for ids in read] == [PREFIX[-1:], [*ANSWERS[2], 20], [20]]


@pytest.mark.parametrize("answers", [ANSWERS, [[50], [60], [61]]], ids=["several tokens", "one token"])
def test_sessions_without_context_agree_and_never_write_to_what_they_share(sharp_model, answers):
    shared = SharedModel(sharp_model, PREFIX, answers, LENGTH, MAX_TOKENS)
    for _ in range(2):
        person = Session(shared)
        for number in range(3):
            scored = person.score([])
            expected = score(sharp_model, [PREFIX + person.history()], answers).log_p[0]
            np.testing.assert_allclose(np.log(scored.low), expected[scored.candidates], atol=1e-4, rtol=0)
            person.append(answers[number], number)
    # other values than a reading of the prefix gives, so that writing that reading over them would show
    shared.past = [tuple(part + 1 for part in layer) for layer in shared.past]
    before = [part.clone() for layer in shared.past for part in layer]
    Session(shared).score([])
    Session(shared).score([], 1)
    after = [part for layer in shared.past for part in layer]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("failing", [1, 2])
def test_a_pass_that_fails_where_no_context_is_told_leaves_nothing_wrong_behind(
    sharp_model, candidates, monkeypatch, failing
):
    monkeypatch.setattr(session, "_GUESSED_TOKENS", 1)
    rng, person = np.random.default_rng(9), Session(candidates)
    for number in range(3 * LENGTH):
        score_with_a_failing_pass(monkeypatch, candidates, person, [], failing)
        if number % 2:
            agrees(sharp_model, person, [])
        event, candidate = behind(rng)
        person.append(event, candidate)
        agrees(sharp_model, person, [])


def test_sessions_do_not_know_of_each_other(sharp_model, candidates):
    one, other = Session(candidates), Session(candidates)
    one.score([20])
    one.append([20, *ANSWERS[0]], 0)
    agrees(sharp_model, other, [21])
    agrees(sharp_model, one, [21])
    assert not other.history()


def test_bf16_weights_in_another_order_say_the_same(sharp_model):
    """The layout for few tokens is taken in bf16 only; alone it must be no further from float32 than plain bf16."""
    rng = np.random.default_rng(6)
    low = SharedModel(sharp_model.to(torch.bfloat16), PREFIX, ANSWERS, LENGTH, MAX_TOKENS)
    try:
        person = Session(low)
        for _ in range(6):
            context, candidate = happening(rng)
            expected = whole(sharp_model, person, context)
            scored = person.score(context)
            np.testing.assert_allclose(scored.low, np.exp(expected[scored.candidates]), atol=0.15)
            person.append(context + ANSWERS[candidate], candidate)
    finally:
        sharp_model.to(torch.float32)


@pytest.mark.parametrize("top", [None, 2])
def test_candidates_of_ones_own_are_scored_by_their_names(sharp_model, candidates, top):
    rng, person, own = np.random.default_rng(5), Session(candidates), [[40, 41, 44, END], [70, 71, END], [72, END]]
    for number in range(4 * LENGTH):
        known = own[: number // LENGTH] if number < 3 * LENGTH else own[1:]  # at last the first is forgotten
        person.know(known)
        context, _ = happening(rng)
        expected = score(sharp_model, [PREFIX + person.history() + context], [*ANSWERS, *known]).log_p[0]
        scored = person.score(context, top)
        best = np.argsort(-expected)[:top]
        np.testing.assert_array_equal(scored.candidates, best)
        assert (np.log(scored.low) <= expected[best] + 1e-4).all()
        assert (np.log(scored.high) >= expected[best] - 1e-4).all()
        assert 0 < person.bytes <= person.bytes_to_answer(context)
        event = [*ANSWERS, *known][int(rng.integers(len(ANSWERS) + len(known)))]
        person.append(context + event, [*ANSWERS, *known].index(event))
        if number % 3 == 0:
            person.let_go()
            assert not person.bytes
    fresh = Session(candidates)
    assert fresh.tree is candidates.all.tree, "the others' candidates are not touched"
