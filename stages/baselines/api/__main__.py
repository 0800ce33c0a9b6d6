"""API models (GPT-4o in the paper's Table 3): one question a window to a chat API, nothing trained.

Asked are the windows of every other baseline, in the words of layout `window`, all candidates among them, with what
--context says; the snapshot is pinned, the temperature 0. With `api.answer: schema` the endpoint chooses among the
candidates (structured output, strict); with `text` what the model writes is taken if it is a candidate but for case,
space and the marks around it. Published are the snapshot, 2024-08-06, and three wordings; the role before them and
the way answers are read are ours. A history is never shortened to `prompt.max_tokens`, which is about the language
models that run here.

An answer is one behaviour and no distribution, so `log_p` is a stated one: `api.mass` on the answer, at least one
half so that it is the most likely whatever the shares, and the rest by training share. What is about confidence
(log_loss, ece, aurc, coverage) says no more than that setting. An answer that is refused, cut or no candidate is
wrong. The table of predictions has no place for one, so its window gets the training shares with next to nothing on
what truly happened: that ranks last, and comes first under no τ that validation may choose, so that there is no
recall. The counts say how many.

In no dvc.yaml: what an API answers hangs on an account and a day, and DVC, which compares files, could neither leave it
out without a key nor notice that one has come. Run it by hand, then `python -m stages.evaluate`. Answers stay in the
user's cache; where all are there, no key is needed. Else without a key it is left out: nothing is written, status 0.

Held by tests on a server of that protocol and (slow) on a small model behind `transformers serve`: answers, retries,
refusals, a kill between two answers, the limits on tokens. Not measured: GPT-4o itself.
"""

import statistics
import threading
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from stages.baselines.api.cache import Answer, Cache, key_of
from stages.baselines.api.client import Client, Stopped, endpoint, has_key
from stages.baselines.api.questions import INVALID, Form, Questions
from stages.baselines.fitting.settings import Context
from stages.baselines.fitting.stage import OPTIONS, READS, predictions_of
from stages.baselines.fitting.task import Task, tuning_counts
from stages.common.console import console, track
from stages.common.draws import stream
from stages.common.errors import UserError
from stages.common.files import cache_folder
from stages.common.params import Positive, Section, Seed
from stages.common.stage import COUNTS, Stage, table
from stages.prompts.log import EventLog
from stages.prompts.settings import PromptParams
from stages.windows.settings import Predictions

LARGEST_TAU = 2.0
"""Up to this τ of logit adjustment, the largest that validation chooses from, an invalid answer stays wrong."""

_OUTCOMES = ("valid", "refused", "invalid")


class Params(PromptParams):
    seed: Seed
    predictions: Predictions


class Settings(Section):
    model: Annotated[str, Field(min_length=1)]
    answer: Form
    mass: Annotated[float, Field(ge=0.5, lt=1)]
    max_tokens_total: Positive
    natural: Positive | None
    per_behavior: Positive | None
    parallel: Annotated[int, Field(ge=1, le=256)]
    attempts: Positive
    timeout: Annotated[float, Field(gt=0)]


def chosen(wanted: pl.DataFrame, settings: Settings, seed: int) -> pl.DataFrame:
    """The rows of `tested` that are asked, a seeded choice: more of them include those of fewer.

    At most `settings.natural` of each natural split, `settings.per_behavior` of each behaviour of each balanced one.
    """
    order = stream(seed, "api windows").permutation(len(wanted))
    drawn = wanted[order].with_columns(
        of_split=pl.int_range(pl.len()).over("split"), of_behavior=pl.int_range(pl.len()).over("split", "behavior")
    )
    balanced = pl.col("split").str.ends_with("balanced")
    kept = pl.when(balanced).then(pl.col("of_behavior") < (settings.per_behavior or len(wanted))).otherwise(
        pl.col("of_split") < (settings.natural or len(wanted))
    )
    return drawn.filter(kept).select(wanted.columns).sort("split", "row")


def log_p(numbers: np.ndarray, label: np.ndarray, share: np.ndarray, mass: float) -> np.ndarray:
    """Log-probabilities `(N, V)` float32 that stand for answers; the module says why these.

    Args:
        numbers: answered behaviours `(N,)`, or `INVALID`.
        label: what happened `(N,)`, -1 outside the vocabulary; read where the answer is invalid only, to miss it.
        share: of the training events `(V,)`, above 0.
    """
    share = share / share.sum()
    log_share = np.log(share)
    rows = np.tile(log_share, (len(numbers), 1))
    valid = np.flatnonzero(numbers != INVALID)
    rows[valid, numbers[valid]] = np.log(share[numbers[valid]] + mass / (1 - mass))
    missed = np.flatnonzero((numbers == INVALID) & (label >= 0))
    rows[missed, label[missed]] = log_share.min() - LARGEST_TAU * np.ptp(log_share) - 1
    return (rows - np.logaddexp.reduce(rows, axis=1, keepdims=True)).astype(np.float32)


def ask(
    requests: dict[str, dict[str, Any]], cache: Cache, client: Client, questions: Questions, used: int,
    settings: Settings,
) -> dict[str, Answer]:
    """The answers to all of `requests`, by their keys, kept in the cache as they come.

    Args:
        used: tokens, in all runs so far; what a question is expected to take is set aside before it is sent.

    Raises:
        UserError: the endpoint gave up, or the tokens are used up. What was answered is in the cache, that which was
            on its way when it happened included.
    """
    most, lock = settings.max_tokens_total, threading.Lock()
    answers: dict[str, Answer] = {}

    def one(key: str, request: dict[str, Any]) -> None:
        nonlocal used
        if client.stop.is_set():
            raise Stopped
        estimate = questions.estimate(request)
        try:
            with lock:
                if used + estimate > most:
                    raise UserError(
                        f"api.max_tokens_total: {most:,}: no room for another question, {used:,} tokens are used; what "
                        "was answered is kept. Raise it and run the same command again to go on"
                    )
                used += estimate
            answer = client.ask(request)
            cache.put(key, answer)
            answers[key] = answer
        except BaseException:
            client.stop.set()  # here, before this thread takes up the next question
            raise
        with lock:
            used += answer.tokens(estimate) - estimate

    errors: list[BaseException] = []
    with track("asking", len(requests)) as progress, ThreadPoolExecutor(settings.parallel) as pool:
        try:
            for future in as_completed([pool.submit(one, *item) for item in requests.items()]):
                error = future.exception()
                if error is None:
                    progress.advance()
                elif not isinstance(error, Stopped):
                    errors.append(error)
        except KeyboardInterrupt:
            client.stop.set()
            raise
    if errors:
        raise errors[0]
    return answers


def predictions(task: Task, settings: Settings, cache: Cache) -> tuple[pl.DataFrame, dict[str, Any]] | None:
    """Table `predictions` and what stands beside it; None, after a line about it, if there is no key.

    Raises:
        UserError: more tokens would be taken than allowed; as `ask`.
    """
    params = task.params
    log = EventLog.from_tables(task.events, task.vocabulary)
    questions = Questions(log, params, task.context, settings.model, settings.answer)
    wanted = chosen(task.tested(), settings, params.data_seed)
    requests = [questions.request(row) for row in wanted["row"].to_list()]
    keys = [key_of(endpoint(), request) for request in requests]
    found = {key: answer for key in dict.fromkeys(keys) if (answer := cache.get(key)) is not None}
    missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in found}
    if missing and not has_key():
        console.print(f"API models are left out, as OPENAI_API_KEY is not set ({len(found):,} of {len(set(keys)):,} "
                      "questions are answered in the cache)", soft_wrap=True)
        return None
    if missing:
        estimates = {key: questions.estimate(request) for key, request in zip(keys, requests, strict=True)}
        used = sum(answer.tokens(estimates[key]) for key, answer in found.items())
        expected = sum(estimates[key] for key in missing)
        plan = (f"{settings.model}: {len(wanted):,} windows, {len(missing):,} questions to ask, {len(found):,} "
                f"answered before with {used:,} tokens; about {expected:,} tokens more, api.max_tokens_total is "
                f"{settings.max_tokens_total:,}")
        if used + expected > settings.max_tokens_total:
            raise UserError(f"{plan}: nothing was sent. Raise it, or lower api.natural and api.per_behavior")
        console.print(plan, soft_wrap=True)
        found |= ask(missing, cache, Client(settings.attempts, settings.timeout), questions, used, settings)
    return _read(wanted, [found[key] for key in keys], task, settings, questions)


def _read(
    wanted: pl.DataFrame, answers: list[Answer], task: Task, settings: Settings, questions: Questions
) -> tuple[pl.DataFrame, dict[str, Any]]:
    numbers = np.array([questions.read(answer) for answer in answers], dtype=np.int64)
    place = {name: number for number, name in enumerate(questions.labels)}
    label = np.array([place.get(name, INVALID) for name in wanted["behavior"].to_list()], dtype=np.int64)
    frame = predictions_of(wanted, log_p(numbers, label, task.vocabulary["share"].to_numpy(), settings.mass))
    outcome = pl.Series(["refused" if answer.refused else "invalid" if number == INVALID else "valid"
                         for answer, number in zip(answers, numbers, strict=True)])
    split = wanted["split"]
    return frame, {
        "layout": "window", "context": task.context, "windows": len(frame), "events_dropped": 0,
        "trained_targets": 0, "trained_parameters": 0, "fit_seconds": 0.0,
        "latency_ms": 1000 * statistics.median(answer.seconds for answer in answers),
        **tuning_counts(settings.model_dump(), [], None, 0),
        "answers": {name: {kind: int(((split == name) & (outcome == kind)).sum()) for kind in _OUTCOMES}
                    for name in split.unique(maintain_order=True)},
        "tokens": {kind: sum(getattr(answer, kind) or 0 for answer in answers)
                   for kind in ("prompt_tokens", "completion_tokens")},
        "served": ", ".join(sorted({f"{answer.model} {answer.fingerprint or ''}".strip() for answer in answers})),
    }


def read_and_ask(
    events: pl.DataFrame, windows: pl.DataFrame, vocabulary: pl.DataFrame, params: Params, settings: Path,
    context: Context,
) -> tuple[pl.DataFrame, dict[str, Any]] | None:
    """`predictions`, with the answers of the user's cache."""
    task = Task(events, windows, vocabulary, params, settings, context)
    return predictions(task, task.settings("api", Settings)[1], Cache(cache_folder() / "api"))


def _message(args: Namespace, frame: pl.DataFrame, counts: dict[str, Any]) -> str:
    sums = {kind: sum(each[kind] for each in counts["answers"].values()) for kind in _OUTCOMES}
    shown = ", ".join(f"{kind} {number:,}" for kind, number in sums.items())
    return f"{args.out.stem}: {len(frame):,} windows; {shown}"


STAGE = Stage("baselines.api", __doc__, read_and_ask, Params, reads=READS,
              writes={"out": table("predictions"), "counts": COUNTS}, options=OPTIONS, message=_message, pipeline="")

if __name__ == "__main__":
    STAGE.run()
