"""What is asked, and how an answer is read."""

import json

import polars as pl
import pytest

from stages.baselines.api.cache import Answer
from stages.baselines.api.questions import INVALID, Questions
from stages.prompts.log import EventLog
from tests.baselines.api.case import ANY, SETTINGS
from tests.small_log import BEHAVIORS


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
        places_read = [r for r in range(case.task.events.height) if f" p{r}," in text or f" p{r})" in text]
        assert places_read == list(range(first, row + 1))[: max(0, min(places, row - first + places - 6))]
        history = case.task.events["behavior"][first:row].to_list()
        beginning = text[: text.index("\n")]
        at = [beginning.index(f"{name})" if context == "id" else f", {name})") for name in history]
        assert len(at) == row - first and sum(beginning.count(f"{name})") for name in set(history)) == len(history)


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
    log = EventLog.from_tables(task.events, vocabulary)
    questions = Questions(log, task.params, "next", "m", "text")
    assert questions.read(answer("watching video clip")) == INVALID


def answer(content):
    return Answer(content=content, refused=False, finished="stop", prompt_tokens=1, completion_tokens=1, model="m",
                  fingerprint=None, seconds=0.1)
