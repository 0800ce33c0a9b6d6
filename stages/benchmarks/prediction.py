"""One prediction after one new event: a session that remembers, against the whole prompt and `generate`.

Ours takes the event in and names the likeliest candidate; weighing all of them exactly is a line of its own, without a
target. Theirs renders the prompt anew, generates greedily with its cache of keys and values on, as many tokens as the
longest answer has, and reads the label from the text. Both follow the same person through the same events, and the
first prediction, before which ours has a whole history to read, counts on neither side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.benchmarks.data import Material
from stages.benchmarks.sizes import Sizes
from stages.benchmarks.timing import Comparison, Row, alternate, now
from stages.common.console import console
from stages.model.likelihood import score
from stages.model.load import load_merged
from stages.serving import session

_TARGET = 15


@dataclass(frozen=True)
class Context:
    """When and where an event falls."""

    time: datetime
    place: str


@dataclass(frozen=True)
class Event:
    """What a person did."""

    context: Context
    behavior: str


class Session(Protocol):
    """One person's state."""

    def append(self, event: Event) -> None: ...

    def predict(self, context: Context, everything: bool) -> str:
        """The likeliest candidate; with `everything` after weighing each of them exactly."""
        ...

    def prompt(self, context: Context) -> list[int]:
        """The tokens that `predict` answers for, to check it by."""
        ...


# a session for a person whose events so far are given, oldest first
MakeSession = Callable[[PreTrainedModel, Material, list[Event]], Session]


class OurSession:
    """stages.serving.session.Session behind events of text."""

    def __init__(self, model: PreTrainedModel, material: Material, history: list[Event]):
        self.layout = material.stream
        self.numbers = {label: number for number, label in enumerate(self.layout.candidates)}
        self.kept = session.Session(session.SharedModel(
            model, self.layout.prefix, self.layout.answers, self.layout.length, self.layout.max_tokens
        ))
        self.kept.extend(self._tokens(event) for event in history)

    def append(self, event: Event) -> None:
        self.kept.append(*self._tokens(event))

    def predict(self, context: Context, everything: bool) -> str:
        found = self.kept.score(self._context(context), top=None if everything else 1)
        return self.layout.candidates[int(found.candidates[0])]

    def prompt(self, context: Context) -> list[int]:
        return [*self.layout.prefix, *self.kept.history(), *self._context(context)]

    def _context(self, context: Context) -> list[int]:
        return self.layout.context_tokens(context.time.weekday(), context.time.hour, context.place)

    def _tokens(self, event: Event) -> tuple[list[int], int]:
        time, place = event.context.time, event.context.place
        tokens = self.layout.event_tokens(time.weekday(), time.hour, place, event.behavior)
        return tokens, self.numbers.get(event.behavior, -1)


def make_session(model: PreTrainedModel, material: Material, history: list[Event]) -> Session:
    """Ours."""
    return OurSession(model, material, history)


@dataclass(frozen=True)
class Walk:
    """What following a person gave: seconds and answer of each prediction, and the prompt that it was for."""

    seconds: list[float]
    answers: list[str]
    prompts: list[list[int]]


def compare(
    material: Material, sizes: Sizes, ours_only: bool = False, make: MakeSession = make_session
) -> Comparison:
    """Seconds a prediction of both sides: median and 99th percentile of every round."""
    model, theirs = load_merged(material.model), load_merged(material.model)
    rows = followed(material, sizes.predictions)
    few = rows[: sizes.their_predictions]
    follow(model, material, rows[:3], make, everything=False)
    sides = {
        "ours": lambda _: follow(model, material, rows, make, everything=False),
        "ours, all": lambda _: follow(model, material, rows, make, everything=True),
    }
    if not ours_only:
        generated(theirs, material, few[:1])
        sides["theirs"] = lambda _: generated(theirs, material, few)
    walks = alternate(sides, sizes.rounds)
    result: list[Row] = []
    for name, share in (("median", 50), ("99th percentile", 99)):
        values = {side: [float(np.percentile(w.seconds, share)) for w in each] for side, each in walks.items()}
        console.print(f"  {name}: " + "; ".join(f"{side} {np.median(v):.4f} s" for side, v in values.items()))
        for side, what, target in (("ours", "the likeliest", _TARGET), ("ours, all", "all candidates, exactly", None)):
            result.append(Row(
                f"one prediction after one event ({what}), {name}", "whole prompt and generate", "s", values[side],
                values.get("theirs", []), rule="times", target=target,
            ))
    return Comparison(result, details(model, material, walks))


def details(model: PreTrainedModel, material: Material, walks: dict[str, list[Walk]]) -> dict:
    """Every time that was taken, and how often the sides agree with the whole prompt's likelihoods and each other."""
    quick, exact = walks["ours"][0], walks["ours, all"][0]
    log_p = score(model, exact.prompts, material.stream.answers, "whole prompts").log_p
    likeliest = [material.stream.candidates[number] for number in log_p.argmax(axis=1)]
    found = {
        "predictions": len(likeliest), "seconds": {side: [w.seconds for w in each] for side, each in walks.items()},
        "as_from_whole_prompts": same(quick.answers, likeliest),
        "as_from_whole_prompts_all": same(exact.answers, likeliest),
    }
    if "theirs" in walks:
        said = walks["theirs"][0].answers
        found |= {"generated_the_same": same(said, likeliest),
                  "generated_a_candidate": float(np.mean([label in material.stream.candidates for label in said]))}
    return found


def same(some: list[str], others: list[str]) -> float:
    """Share of answers that agree, as far as both go."""
    return float(np.mean([a == b for a, b in zip(some, others, strict=False)]))


def followed(material: Material, count: int) -> np.ndarray:
    """Rows of consecutive events of one training user, from the first with a whole history before it on."""
    log, length = material.log, material.stream.length
    rows = material.rows("train")
    rows = rows[rows - log.first[rows] > length + 1]
    people, counts = np.unique(log.first[rows], return_counts=True)
    enough = np.flatnonzero(counts >= count)
    person = people[enough[0] if len(enough) else counts.argmax()]
    start = int(rows[log.first[rows] == person].min())
    last = int(np.flatnonzero(log.first == person).max())
    return np.arange(start, min(start + count, last + 1))


def follow(
    model: PreTrainedModel, material: Material, rows: np.ndarray, make: MakeSession, everything: bool
) -> Walk:
    """Predict each of `rows`; an event is taken in within the time of the prediction that follows it."""
    start = int(rows[0])
    first = max(int(material.log.first[start]), start - 1 - material.stream.length)
    person = make(model, material, [event(material, row) for row in range(first, start - 1)])
    person.predict(event(material, start - 1).context, everything)
    walk = Walk([], [], [])
    for row in rows.tolist():
        new, context = event(material, row - 1), event(material, row).context
        begun = now()
        person.append(new)
        answer = person.predict(context, everything)
        walk.seconds.append(now() - begun)
        walk.answers.append(answer)
        walk.prompts.append(person.prompt(context))
    return walk


@torch.inference_mode()
def generated(model: PreTrainedModel, material: Material, rows: np.ndarray) -> Walk:
    """What `generate` says for each of `rows`."""
    tokenizer, layout, walk = material.tokenizer, material.stream, Walk([], [], [])
    for row in rows.tolist():
        begun = now()
        prompt = layout.prompt(row)
        ids = torch.tensor([prompt], device=model.device)
        tokens = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=layout.longest_answer, do_sample=False,
            use_cache=True, pad_token_id=tokenizer.pad_token_id,
        )
        said = tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)
        walk.seconds.append(now() - begun)
        walk.answers.append(said.partition("\n")[0].strip())
        walk.prompts.append(prompt)
    return walk


def event(material: Material, row: int) -> Event:
    """Row `row` of the log."""
    _, time, place, behavior = material.events.row(row)
    return Event(Context(time, place), behavior)
