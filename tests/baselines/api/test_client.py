"""What an endpoint may do wrong: asked again where that can help, ended where it cannot."""

import random
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest

from stages.baselines.api import client as api_client
from stages.baselines.api.client import backoff, retry_after
from stages.common.errors import UserError
from tests.baselines.api.case import ANY, KEY
from tests.baselines.api.server import Reply, failed, named
from tests.small_log import BEHAVIORS


@pytest.mark.parametrize("reply", [
    failed(429), failed(500), failed(503), failed(408), Reply(closes=True), Reply(body=b"{broken"),
    Reply(body=b"<html>", headers={"content-type": "text/html"}), Reply(body=b"{}"), Reply(body=b'{"choices": []}'),
    Reply(body=b"null"), Reply(body=b'{"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]}'),
], ids=["429", "500", "503", "408", "closed", "broken JSON", "HTML", "no choices", "none of them", "null", "a number"])
def test_a_question_is_asked_again_where_that_can_help(case, server, reply):
    seen = server(lambda body, number: reply if number in (0, 1, 4) else ANY)
    frame, facts = case.run()
    assert len(seen.bodies) == len(frame) + 3
    assert seen.prompts()[0] == seen.prompts()[1] == seen.prompts()[2] != seen.prompts()[3]
    assert facts["answers"]["natural"]["valid"] == (frame["split"] == "natural").sum()


def test_silence_is_a_failed_attempt(case, server):
    seen = server(lambda body, number: ANY if number else named(BEHAVIORS[1], wait=3))
    frame, _ = case.run(timeout=1)
    assert seen.bodies[0] == seen.bodies[1] and len(seen.bodies) > len(frame)
    assert np.array(frame["log_p"].to_list()).argmax(axis=1).tolist() == [0] * len(frame)


def test_a_wish_to_wait_is_honoured(case, server):
    seen = server(lambda body, number: ANY if number else failed(429, retry_after="0.7"))
    case.run()
    assert seen.times[1] - seen.times[0] >= 0.7 and min(np.diff(seen.times[1:])) < 0.7


def test_waits_double_and_are_drawn(monkeypatch):
    monkeypatch.setattr(api_client, "FIRST_WAIT", 0.5)
    random.seed(0)
    draws = np.array([[backoff(attempt) for attempt in range(12)] for _ in range(200)])
    most = np.minimum(60, 0.5 * 2.0 ** np.arange(12))
    assert (draws >= most / 2).all() and (draws <= most).all()
    assert (np.ptp(draws, axis=0) > 0.4 * most).all()


def test_a_wish_to_wait_is_seconds_or_a_date():
    assert retry_after({"retry-after": "12"}) == 12 and retry_after({"retry-after": "-3"}) == 0
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 <= retry_after({"retry-after": soon}) <= 30
    assert retry_after({"retry-after": "soon"}) is retry_after({"retry-after": "inf"}) is retry_after({}) is None


@pytest.mark.parametrize(("reply", "said"), [
    (failed(401, message=f"bad key {KEY}"), "OPENAI_API_KEY"),
    (failed(403), "OPENAI_API_KEY"),
    (failed(404, message="no such model"), "api.model: some-model-2024-08-06.*no such model"),
    (failed(400, message="response_format is unknown"), "400.*response_format is unknown.*api.answer: text"),
    (failed(429, code="insufficient_quota", message="pay first"), "429.*pay first"),
    (failed(429, retry_after="3600"), "60 min"),
])
def test_what_cannot_help_is_not_tried_again(case, server, reply, said):
    seen = server(reply)
    with pytest.raises(UserError, match=said) as error:
        case.run()
    assert len(seen.bodies) == 1 and KEY not in str(error.value)


def test_an_endpoint_that_stays_away_ends_the_run_and_what_was_answered_is_kept(case, server):
    seen = server(lambda body, number: ANY if number < 3 else failed(500))
    with pytest.raises(UserError, match="no answer in 3 attempts"):
        case.run()
    assert len(seen.bodies) == 6
    seen = server(lambda body, number: ANY)
    case.run()
    assert len(seen.bodies) == len(case.wanted)  # another address: nothing of the first counts


def test_others_on_their_way_are_kept_and_those_that_wait_are_not(case, server):
    arrived = threading.Barrier(3)

    def rule(body, number):
        if number < 3:
            arrived.wait(5)
        if number == 0:
            return failed(404)
        if number == 1:
            return failed(500, retry_after="300")
        return named(BEHAVIORS[0], wait=0.3)

    seen = server(rule)
    began = time.monotonic()
    with pytest.raises(UserError, match="api.model"):
        case.run(parallel=3)
    assert time.monotonic() - began < 200  # not the 300 seconds that the endpoint asked for
    kept = list(case.cache.folder.rglob("*.json"))
    assert len(seen.bodies) == 3 and len(kept) == 1


def test_without_the_package_it_says_what_to_install(case, server, monkeypatch):
    seen = server(ANY)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[api\]'"):
        case.run()
    assert seen.bodies == []
