import json
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import polars as pl
import pytest

from stages.baselines import api_client
from stages.baselines.api import LARGEST_TAU, Settings, chosen, log_p, main, row_of
from stages.baselines.api_cache import Answer, Cache
from stages.baselines.api_client import backoff, retry_after
from stages.baselines.api_questions import INVALID, Questions
from stages.baselines.command import Task
from stages.common import tables
from stages.common.errors import UserError, run
from stages.common.files import read_json
from stages.evaluate import evaluate
from stages.events.tested import SPLITS
from stages.events.tested import tested as every_window
from stages.prompts.log import EventLog
from stages.ranking.adjust import adjusted
from stages.ranking.decisions import TAUS
from stages.ranking.outcomes import outcomes
from tests.baselines.api_server import Reply, failed, named, serving
from tests.small_log import BEHAVIORS, all_behaviors, small_log, small_params, small_windows

KEY = "sk-test-4f1d0c"
PSEUDONYM = 7_301_224_918_550_000_000
SPLIT_OF_USER = ("train", "train", "valid", "valid", "natural", "balanced")
SETTINGS = Settings(model="some-model-2024-08-06", answer="schema", mass=0.5, max_tokens_total=10_000_000, natural=None,
                    per_behavior=None, parallel=1, attempts=3, timeout=5)
ANY = named(BEHAVIORS[0])


@dataclass
class Case:
    """A task of few windows, with everything that is known of it."""

    task: Task
    cache: Cache

    def run(self, name="api", **changes):
        return row_of(self.task, SETTINGS.model_copy(update=changes), self.cache, name)

    @property
    def wanted(self):
        task = self.task
        return every_window(task.events, task.windows, task.params.predictions, task.params.data_seed)

    def questions(self, form="schema"):
        log = EventLog.of(self.task.events, self.task.vocabulary)
        return Questions(log, self.task.params, self.task.context, SETTINGS.model, form)

    def truth(self):
        """What happened, by the text of the prompt."""
        questions, wanted = self.questions(), self.wanted
        return {json.dumps(questions.request(row)["messages"]): behavior
                for row, behavior in zip(wanted["row"], wanted["behavior"], strict=True)}

    def numbers(self):
        return np.array([BEHAVIORS.index(name) for name in self.wanted["behavior"]])


@pytest.fixture
def case(tmp_path):
    events = small_log((4, 4, 5, 5, 9, 5), unique=True).with_columns(user=pl.col("user") + PSEUDONYM)
    windows = small_windows(events.with_columns(user=pl.col("user") - PSEUDONYM), SPLIT_OF_USER)
    params = small_params(evaluate__resamples=0)
    task = Task(events, windows, all_behaviors(), params, tmp_path / "params.yaml", "next")
    return Case(task, Cache(tmp_path / "answers"))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(api_client, "FIRST_WAIT", 0.01)


@pytest.fixture
def server(monkeypatch):
    """Starts a server that follows a rule, or gives one reply to all, and has the environment point at it."""
    with ExitStack() as stack:

        def start(rule):
            seen = stack.enter_context(serving(rule if callable(rule) else lambda body, number: rule))
            monkeypatch.setenv("OPENAI_BASE_URL", seen.url)
            return seen

        yield start


def test_right_answers_are_right_in_every_metric(case, server):
    truth = case.truth()
    seen = server(lambda body, number: named(truth[json.dumps(body["messages"])]))
    frame, facts = case.run(parallel=4)
    assert frame.drop("log_p").equals(case.wanted) and set(frame["split"]) == set(SPLITS)
    assert len(seen.bodies) == len(frame) == facts["windows"]
    metrics, _ = evaluate(case.task.events, case.task.vocabulary, frame, facts, case.task.params)
    assert metrics["natural"]["rec_w"] == metrics["balanced"]["overall"] == 1
    assert facts["context"] == "next" and facts["layout"] == "window"
    assert facts["answers"] == {
        split: {"valid": number, "refused": 0, "invalid": 0} for split, number in frame["split"].value_counts().rows()}
    assert facts["tokens"] == {"prompt_tokens": 50 * len(frame), "completion_tokens": 5 * len(frame)}
    assert facts["served"] == "some-model-2024-08-06 fp_test"


def test_a_question_is_pinned_and_lets_the_endpoint_choose_among_all_candidates(case, server):
    seen = server(ANY)
    case.run()
    for body in seen.bodies:
        assert body["model"] == SETTINGS.model and body["temperature"] == 0
        assert not {"logprobs", "user", "metadata", "store"} & body.keys()
        wanted = body["response_format"]["json_schema"]
        assert wanted["strict"] is True and wanted["schema"]["additionalProperties"] is False
        assert wanted["schema"]["required"] == ["behavior"]
        assert wanted["schema"]["properties"]["behavior"] == {"type": "string", "enum": list(BEHAVIORS)}
        assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
        assert body["messages"][1]["content"].endswith("\n".join(BEHAVIORS))
        assert len(json.dumps({"behavior": max(BEHAVIORS, key=len)})) < body["max_tokens"] < 100


@pytest.mark.parametrize(("context", "places"), [("id", 0), ("history", 6), ("next", 7)])
def test_a_window_tells_its_history_and_what_its_context_says(case, server, context, places):
    seen = server(ANY)
    case.task.context = context
    case.run(answer="text")
    assert all("response_format" not in body for body in seen.bodies)
    for row, body in zip(case.wanted["row"], seen.bodies, strict=True):
        text = body["messages"][1]["content"]
        first = max(row - 6, int(case.task.events["user"].index_of(case.task.events["user"][row])))
        told = [r for r in range(case.task.events.height) if f" p{r}," in text or f" p{r})" in text]
        assert told == list(range(first, row + 1))[: max(0, min(places, row - first + places - 6))]
        history = case.task.events["behavior"][first:row].to_list()
        beginning = text[: text.index("\n")]
        at = [beginning.index(f"{name})" if context == "id" else f", {name})") for name in history]
        assert len(at) == row - first and sum(beginning.count(f"{name})") for name in set(history)) == len(history)


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
    metrics, _ = evaluate(case.task.events, case.task.vocabulary, frame, facts, case.task.params)
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


@pytest.mark.parametrize(("content", "number"), [
    ("Taking a taxi", 2), ("  taking a TAXI.\n", 2), ("**Taking\u00a0a  taxi**", 2), ('"Reading "news""', 4),
    ("Watching video", 0), ("Watching video clip", 1), ("看电影。", 5), ("(看电影)", 5),
    ("Taking a taxi, then home", INVALID), ("I think: Taking a taxi", INVALID), ("taxi", INVALID), ("…", INVALID),
])
def test_text_is_an_answer_if_it_is_a_candidate_but_for_its_dress(case, content, number):
    assert case.questions("text").read(answer(content)) == number


def test_text_that_fits_two_candidates_is_none(case):
    task = case.task
    vocabulary = task.vocabulary.with_columns(behavior=pl.col("behavior").replace(BEHAVIORS[0], "Watching video clip!"))
    log = EventLog.of(task.events, vocabulary)
    questions = Questions(log, task.params, "next", "m", "text")
    assert questions.read(answer("watching video clip")) == INVALID


def answer(content):
    return Answer(content=content, refused=False, finished="stop", prompt_tokens=1, completion_tokens=1, model="m",
                  fingerprint=None, seconds=0.1)


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
    assert 0.7 <= seen.times[1] - seen.times[0] and min(np.diff(seen.times[1:])) < 0.7


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
    assert time.monotonic() - began < 200  # not the 300 seconds that one was told to wait
    kept = list(case.cache.folder.rglob("*.json"))
    assert len(seen.bodies) == 3 and len(kept) == 1


def test_nothing_is_sent_if_the_estimate_is_above_the_cap(case, server):
    seen = server(ANY)
    with pytest.raises(UserError, match=f"{len(case.wanted)} windows.*nothing was sent"):
        case.run(max_tokens_total=1000)
    assert seen.bodies == []


def test_windows_and_tokens_are_told_before_anything_is_sent(case, server, capsys):
    told = []
    server(lambda body, number: told.append(capsys.readouterr().err) or ANY)
    case.run()
    questions = case.questions()
    estimate = sum(questions.estimate(questions.request(row)) for row in case.wanted["row"])
    assert f"{len(case.wanted)} windows" in told[0] and f"about {estimate:,} tokens" in told[0]


def test_what_was_used_counts_over_all_runs_and_stops_them(case, server):
    seen = server(named(BEHAVIORS[0], tokens=(9_000, 1_000)))
    with pytest.raises(UserError, match="max_tokens_total: 35,000.*40,000 tokens are used"):
        case.run(max_tokens_total=35_000)
    assert len(seen.bodies) == 4
    with pytest.raises(UserError, match="answered before with 40,000 tokens.*nothing was sent"):
        case.run(max_tokens_total=40_000)
    with pytest.raises(UserError, match="max_tokens_total: 60,000.*60,000 tokens are used"):
        case.run(max_tokens_total=60_000)
    assert len(seen.bodies) == 6
    frame, facts = case.run(max_tokens_total=10_000 * len(case.wanted))
    assert len(seen.bodies) == len(set(seen.prompts())) == len(frame)


def test_an_endpoint_that_does_not_count_is_counted_by_the_estimate(case, server):
    seen = server(named(BEHAVIORS[0], tokens=None))
    questions = case.questions()
    estimates = [questions.estimate(questions.request(row)) for row in case.wanted["row"]]
    frame, facts = case.run(max_tokens_total=sum(estimates))
    assert len(seen.bodies) == len(frame) and facts["tokens"]["prompt_tokens"] == 0
    case.cache = Cache(case.cache.folder / "other")
    with pytest.raises(UserError, match="nothing was sent"):
        case.run(max_tokens_total=sum(estimates) - 1)


def test_a_limit_on_windows_is_a_seeded_choice_that_grows(case):
    wanted = case.wanted
    few, more = (chosen(wanted, SETTINGS.model_copy(update={"natural": n, "per_behavior": b}), 0)
                 for n, b in ((2, 1), (3, 2)))
    assert chosen(wanted, SETTINGS, 0).equals(wanted)
    assert len(few.join(more, on=["row", "split"], how="inner")) == len(few) < len(more) < len(wanted)
    natural = few.filter(~pl.col("split").str.contains("balanced"))["split"].value_counts()["count"]
    balanced = few.filter(pl.col("split").str.contains("balanced"))
    assert natural.max() == 2 and balanced.group_by("split", "behavior").len()["len"].max() == 1
    assert set(balanced["behavior"]) == set(wanted.filter(pl.col("split").str.contains("balanced"))["behavior"])


def test_an_answer_that_was_half_written_is_asked_again(case, server):
    seen = server(ANY)
    case.run()
    asked = len(seen.bodies)
    path = next(case.cache.folder.rglob("*.json"))
    path.write_text(path.read_text()[:20])
    case.run()
    assert len(seen.bodies) == asked + 1


def test_without_the_package_it_says_what_to_install(case, server, monkeypatch):
    seen = server(ANY)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[api\]'"):
        case.run()
    assert seen.bodies == []


# ---------------------------------------------------------------------------------------------------------------------
# the command


@pytest.fixture
def command(case, tmp_path, monkeypatch):
    """The words that run the command on the case's tables, its cache in a folder of its own."""
    monkeypatch.setenv("BEHAVIORLM_CACHE", str(tmp_path / "cache"))
    for name in ("events", "windows", "vocabulary"):
        tables.write(getattr(case.task, name), name, tmp_path / f"{name}.parquet")
    (tmp_path / "settings.yaml").write_text(
        "budget: {trials: 1, valid_windows: 1, patience: 1}\n"
        f"api: {SETTINGS.model_dump_json()}\n"
    )
    (tmp_path / "params.json").write_text(case.task.params.model_dump_json(by_alias=True))
    words = ["--context", "next", "--params", tmp_path / "params.json", "--settings", tmp_path / "settings.yaml",
             "--out", tmp_path / "row.parquet", "--metrics", tmp_path / "row.json"]
    for name in ("events", "windows", "vocabulary"):
        words += [f"--{name}", tmp_path / f"{name}.parquet"]
    return [str(word) for word in words]


def run_here(words, monkeypatch):
    """The exit status of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["api", *words])
    with pytest.raises(SystemExit) as ended:
        run(main)
    return ended.value.code


def test_no_key_no_row(command, server, monkeypatch, tmp_path, capsys):
    seen = server(ANY)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert run_here(command, monkeypatch) == 0 and seen.bodies == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "row: left out, as OPENAI_API_KEY is not set" in said
    assert not (tmp_path / "row.parquet").exists() and not (tmp_path / "row.json").exists()


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
    assert not (tmp_path / "row.parquet").exists()
    before = len(seen.bodies)
    assert run_here(command, monkeypatch) == 0
    assert len(seen.bodies) - before == len(case.wanted) - answered
    assert not set(seen.prompts()[:answered]) & set(seen.prompts()[before:])
    frame, facts = tables.read("predictions", tmp_path / "row.parquet"), read_json(tmp_path / "row.json")
    assert frame.equals(case.run()[0]) and facts["windows"] == len(frame)
