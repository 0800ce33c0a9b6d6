"""The predictions: what answers become, and what is kept of them."""

import json
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from stages.baselines.api.__main__ import LARGEST_TAU, log_p
from stages.baselines.api.questions import INVALID
from stages.common.errors import UserError
from stages.evaluate import evaluate
from stages.metrics.adjust import adjusted
from stages.metrics.decisions import TAUS
from stages.metrics.outcomes import outcomes
from stages.windows.tested import SPLITS
from tests.baselines.api.case import ANY, KEY
from tests.baselines.api.server import Reply, failed, named
from tests.small_log import BEHAVIORS


def test_right_answers_are_right_in_every_metric(case, server):
    truth = case.truth()
    seen = server(lambda body, number: named(truth[json.dumps(body["messages"])]))
    frame, facts = case.run(parallel=4)
    assert frame.drop("log_p").equals(case.wanted) and set(frame["split"]) == set(SPLITS)
    assert len(seen.bodies) == len(frame) == facts["windows"]
    _, metrics, _ = evaluate(case.task.events, case.task.vocabulary, frame, facts, case.task.params)
    assert metrics["natural"]["rec_w"] == metrics["balanced"]["overall"] == 1
    assert facts["context"] == "next" and facts["layout"] == "window"
    assert facts["tuning"] == {"trials": 0, "valid_windows": 0, "score": None, "tried": "[]"}
    assert facts["trained_targets"] == facts["trained_parameters"] == facts["fit_seconds"] == 0 < facts["latency_ms"]
    assert facts["answers"] == {
        split: {"valid": number, "refused": 0, "invalid": 0} for split, number in frame["split"].value_counts().rows()}
    assert facts["tokens"] == {"prompt_tokens": 50 * len(frame), "completion_tokens": 5 * len(frame)}
    assert facts["served"] == "some-model-2024-08-06 fp_test"


def test_users_and_the_key_are_in_no_question_file_or_message(case, server, tmp_path, capsys):
    seen = server(lambda body, number: ANY if number else failed(400, message=f"no {KEY} here"))
    with pytest.raises(UserError) as error:
        case.run()
    frame, facts = case.run()
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == len(frame)
    sent = json.dumps(seen.bodies) + "".join(json.dumps({k: v for k, v in each.items() if k.lower() != "authorization"})
                                            for each in seen.headers)
    for secret in [KEY, *map(str, case.task.events["user"].unique())]:
        assert secret not in sent + "".join(kept) + json.dumps(facts) + str(error.value) + capsys.readouterr().err
    assert seen.url not in "".join(kept) + json.dumps(facts) + str(error.value)
    assert all(each["authorization"] == f"Bearer {KEY}" for each in map(lowered, seen.headers))


def lowered(headers):
    return {name.lower(): value for name, value in headers.items()}


def test_what_was_answered_is_not_asked_again_even_without_a_key(case, server, monkeypatch):
    rule = lambda body, number: named(BEHAVIORS[number % 3])  # noqa: E731
    seen = server(rule)
    first, _ = case.run()
    asked = len(seen.bodies)
    monkeypatch.delenv("OPENAI_API_KEY")
    again, _ = case.run()
    assert len(seen.bodies) == asked and again.equals(first)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    case.run(model="another-model")
    assert len(seen.bodies) == 2 * asked
    other = server(rule)  # the same question to another address is another question
    case.run()
    assert len(other.bodies) == asked


def test_two_windows_with_the_same_words_are_one_question(case, server):
    task = case.task
    case.task.events = task.events.with_columns(time=pl.lit(datetime(2024, 3, 1)), place=pl.lit("home"),
                                                behavior=pl.lit(BEHAVIORS[0]))
    case.task.context = "id"
    seen = server(ANY)
    frame, _ = case.run()
    assert len(seen.bodies) == len(set(seen.prompts())) < len(frame)


@pytest.mark.parametrize(("reply", "kind"), [
    (Reply(refusal="I would rather not"), "refused"),
    (Reply(content="partly", finished="content_filter"), "refused"),
    (failed(400, code="content_filter"), "refused"),
    (Reply(content="nonsense"), "invalid"),
    (Reply(content=BEHAVIORS[0]), "invalid"),  # a candidate, but not as it was asked for
    (named("Sleeping"), "invalid"),
    (Reply(content="[1, 2]"), "invalid"),
    (Reply(content='{"behavior": ["Watching video"]}'), "invalid"),
    (named(BEHAVIORS[0], finished="length"), "invalid"),
    (Reply(content=None), "invalid"),
    (Reply(content=""), "invalid"),
])
def test_an_answer_that_is_none_is_counted_and_wrong_whatever_the_decision(case, server, reply, kind):
    seen = server(reply)
    frame, facts = case.run()
    assert len(seen.bodies) == len(frame)  # it was an answer: asking again would only cost
    assert {split: each[kind] for split, each in facts["answers"].items()} == dict(frame["split"].value_counts().rows())
    assert sum(sum(each.values()) for each in facts["answers"].values()) == len(frame)
    values, label = np.array(frame["log_p"].to_list()), case.numbers()
    share = case.task.vocabulary["share"].to_numpy()
    assert max(TAUS) <= LARGEST_TAU
    for tau in TAUS:
        assert not outcomes(adjusted(values, share, tau), label).hit.any()
    assert not outcomes(values, label).hit_at(len(share) - 1).any()
    _, metrics, _ = evaluate(case.task.events, case.task.vocabulary, frame, facts, case.task.params)
    assert metrics["natural"]["rec_w"] == metrics["adjusted"]["balanced"]["overall"] == 0


def test_the_rarest_truth_is_missed_under_the_largest_tau_too():
    share = np.array([0.89, 0.1, 0.00999, 1e-5])
    label = np.array([0, 1, 2, 3, -1])
    values = log_p(np.full(5, INVALID), label, share, 0.5)
    for tau in np.linspace(0, LARGEST_TAU, 33):
        assert not outcomes(adjusted(values, share, tau), label).hit.any()
    np.testing.assert_allclose(np.exp(values[-1]), share, rtol=1e-5)


@pytest.mark.parametrize("mass", [0.5, 0.9])
def test_an_answer_holds_its_mass_and_the_rest_goes_by_share(mass):
    share = np.array([0.97, 0.02, 0.00999, 1e-5])
    values = log_p(np.arange(4), np.array([0, 0, 0, -1]), share, mass)
    assert values.dtype == np.float32 and values.argmax(axis=1).tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(np.exp(values), (1 - mass) * share + mass * np.eye(4), rtol=1e-5)


def test_an_answer_that_was_half_written_is_asked_again(case, server):
    seen = server(ANY)
    case.run()
    asked = len(seen.bodies)
    path = next(case.cache.folder.rglob("*.json"))
    path.write_text(path.read_text()[:20])
    case.run()
    assert len(seen.bodies) == asked + 1
