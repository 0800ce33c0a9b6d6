"""Who lets go of keys and values is answered as if they had not; what is kept stays within the limits."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.common.errors import UserError
from stages.serving.people import Limits, People
from stages.serving.person import Predictor
from stages.serving.session import Session, SharedModel
from tests.serving.test_session import ANSWERS, LENGTH, MAX_TOKENS, PREFIX, agrees, behind, happening
from tests.small_log import BEHAVIORS, PLACES, all_behaviors, sft_adapter, small_params


@pytest.fixture(scope="module")
def shared(sharp_model):
    return SharedModel(sharp_model, PREFIX, ANSWERS, LENGTH, MAX_TOKENS)


@pytest.mark.parametrize("told", [happening, behind], ids=["context", "none"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_session_that_let_go_answers_as_one_that_did_not(sharp_model, shared, told, every):
    rng, one, other = np.random.default_rng(0), Session(shared), Session(shared)
    for number in range(6 * LENGTH):
        event, candidate = told(rng)
        context = event if told is happening else []
        if number % every == 0:
            other.let_go()
            assert not other.bytes
        assert one.history() == other.history()
        a, b = one.score(context), other.score(context)
        np.testing.assert_array_equal(a.candidates, b.candidates)
        np.testing.assert_allclose(a.low, b.low, atol=1e-5)
        agrees(sharp_model, other, context)
        a, b = one.score(context, 2), other.score(context, 2)
        np.testing.assert_allclose([a.low, a.high], [b.low, b.high], atol=1e-5)
        for person in (one, other):
            person.append(event + ANSWERS[candidate] if told is happening else event, candidate)
        if number % 2:
            other.let_go()  # events come while nothing is kept


def test_what_an_answer_will_take_is_known_before(shared):
    rng, person = np.random.default_rng(1), Session(shared)
    assert not person.bytes, "the prefix is everybody's"
    for _ in range(8 * LENGTH):
        context, candidate = happening(rng)
        for top in (None, 1):
            needed = person.bytes_to_answer(context)
            person.score(context, top)
            assert 0 < person.bytes <= needed
        person.append(context + ANSWERS[candidate], candidate)
        if rng.random() < 0.1:
            person.let_go()


@pytest.fixture(scope="module")
def predictor(tiny_base, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEHAVIORLM_DTYPE", "float32")
        return Predictor(sft_adapter(tiny_base, tmp_path_factory.mktemp("models") / "dpo"), all_behaviors(),
                         small_params())


steps = st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from(PLACES), st.sampled_from(BEHAVIORS)),
                 min_size=1, max_size=60)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.integers(1, 4), st.sampled_from([1, 400_000, 1_000_000, 10**12]))
def test_limits_hold_and_change_no_answer(predictor, steps, people, size):
    free, limited = People(predictor), People(predictor, Limits(people, size))
    for number, (who, asks, place, behavior) in enumerate(steps):
        time = f"2024-03-{number // 24 + 1:02}T{number % 24:02}:00"
        if not asks:
            free.append(who, time, place, behavior)
            limited.append(who, time, place, behavior)
            continue
        usual, found = (each.predict(who, time, place, None) for each in (free, limited))
        assert [each["behavior"] for each in usual] == [each["behavior"] for each in found]
        np.testing.assert_allclose([e["probability"] for e in usual], [e["probability"] for e in found], atol=1e-5)
        kept = [person.kept for person in limited.all.values()]
        stays = sum(person.past.bytes for person in limited.all.values())
        assert sum(kept) + stays == limited.bytes <= max(size, stays) and sum(map(bool, kept)) <= people


def test_the_longest_unused_lets_go_first_and_that_is_counted(predictor):
    people = People(predictor, Limits(people=2))
    for who in ("a", "b", "a", "c"):
        people.predict(who, "2024-03-01T08:00", None, 1)
    assert [bool(people.all[who].kept) for who in "abc"] == [True, False, True]
    assert people.read_anew == 0
    people.predict("b", "2024-03-01T08:00", None, 1)
    assert people.read_anew == 1
    assert not people.all["a"].kept, "b was used later, and so was c"


def test_who_only_made_mistakes_is_not_remembered(predictor):
    people = People(predictor)
    with pytest.raises(UserError, match="'yesterday'"):
        people.append("a", "yesterday", None, "Taking a taxi")
    with pytest.raises(UserError, match="'yesterday'"):
        people.predict("a", "yesterday", None, 1)
    assert not people.all


def test_what_is_kept_of_events_does_not_grow_without_end(predictor):
    person = predictor.person()
    for number in range(100):
        person.append(f"2024-03-{number // 24 + 1:02}T{number % 24:02}:00", "home", "Taking a taxi")
    assert len(person.session.recent) == 2 * predictor.parts.language.shared.length
    assert len({id(tokens) for tokens in person.session.recent}) <= 24, "equal events at equal hours are one"


def test_a_person_takes_what_one_would_pass(predictor):
    from datetime import datetime

    one, other = predictor.person(), predictor.person()
    one.append(datetime(2024, 3, 1, 7), "home", "Taking a taxi")
    one.append(datetime(2024, 3, 1, 8), "unknown", "Taking a taxi")
    other.append("2024-03-01 07:00", "  home ", "Taking  a taxi")
    other.append("2024-03-01T08:00:00", behavior="Taking a taxi")
    assert one.predict(datetime(2024, 3, 1, 9), "unknown") == other.predict("2024-03-01T09:00")
    likely = other.predict("2024-03-01T09:00", None)
    assert all(a["probability"] >= b["probability"] for a, b in pairwise(likely))


@pytest.mark.parametrize(("event", "words"), [
    (("2024-03-01T07:00", "Taking a taxi"), "what they did is needed"),
    ((20240301, "home", "Taking a taxi"), "time 20240301: not an ISO time such as 2024-05-06T16:20"),
    (("2024-03-01", "home", "Taking a taxi"), "'2024-03-01'"),
    (("2024-03-01T07:00", 7, "Taking a taxi"), "place 7: text is needed"),
    (("2024-03-01T07:00", "home", 7), "behavior 7: text is needed"),
])
def test_a_person_refuses_what_it_cannot_take_with_a_word(predictor, event, words):
    with pytest.raises(UserError) as error:
        predictor.person().append(*event)
    assert words in str(error.value)
