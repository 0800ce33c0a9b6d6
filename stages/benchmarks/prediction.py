"""One prediction after one new event: a session that remembers, against the whole prompt and `generate`.

Ours takes the event in and names the likeliest candidate; scoring all of them exactly is a row of its own, without a
target. The baseline renders the prompt anew, generates greedily with its KV cache on, as many tokens as the longest
answer has, and reads the label from the text. Both follow the same person through the same events, and the first
prediction, before which ours has a whole history to read, counts on neither side.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from stages.benchmarks.data import Inputs
from stages.benchmarks.timing import Comparison, Row, alternate, now
from stages.common.console import console
from stages.model.likelihood import score
from stages.model.load import load_merged
from stages.serving import session

# the table's rows: the side, what it does, and the least ratio
_ROWS = (("ours", "the likeliest", 15), ("ours, all", "all candidates, exactly", None))


class OurSession:
    """One person's state, stages.serving.session.Session; events are rows of the log, `history` oldest first."""

    def __init__(self, model: PreTrainedModel, inputs: Inputs, history: list[int]):
        self.inputs, self.layout = inputs, inputs.stream
        self.numbers = {label: number for number, label in enumerate(self.layout.candidates)}
        self.kept = session.Session(session.SharedModel(
            model, self.layout.prefix, self.layout.answers, self.layout.length, self.layout.max_tokens
        ))
        self.kept.extend(self._event(row) for row in history)

    def append(self, row: int) -> None:
        self.kept.append(*self._event(row))

    def predict(self, row: int, exactly: bool) -> str:
        """The likeliest candidate when and where event `row` falls; `exactly` after scoring each of them."""
        found = self.kept.score(self._context(row), top=None if exactly else 1)
        return self.layout.candidates[int(found.candidates[0])]

    def prompt(self, row: int) -> list[int]:
        """The tokens that `predict` answers for, to check it by."""
        return [*self.layout.prefix, *self.kept.history(), *self._context(row)]

    def _context(self, row: int) -> list[int]:
        event = self.inputs.events.row(row, named=True)
        return self.layout.context_tokens(event["time"].weekday(), event["time"].hour, event["place"])

    def _event(self, row: int) -> tuple[list[int], int]:
        event = self.inputs.events.row(row, named=True)
        time, behavior = event["time"], event["behavior"]
        tokens = self.layout.event_tokens(time.weekday(), time.hour, event["place"], behavior)
        return tokens, self.numbers.get(behavior, -1)


class Generation:
    """The whole prompt anew and `generate`; nothing is kept from one event to the next."""

    def __init__(self, model: PreTrainedModel, inputs: Inputs, history: list[int]):
        self.model, self.tokenizer, self.layout = model, inputs.tokenizer, inputs.stream
        self.append, self.prompt = (lambda row: None), self.layout.prompt

    @torch.inference_mode()
    def predict(self, row: int, exactly: bool) -> str:
        ids = torch.tensor([self.layout.prompt(row)], device=self.model.device)
        tokens = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=self.layout.longest_answer, do_sample=False,
            use_cache=True, pad_token_id=self.tokenizer.pad_token_id,
        )
        said = self.tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)
        return said.partition("\n")[0].strip()


@dataclass(frozen=True)
class Walk:
    """What following a person gave: seconds and answer of each prediction, and the prompt that it was for."""

    seconds: list[float]
    answers: list[str]
    prompts: list[list[int]]


def compare(inputs: Inputs, ours_only: bool = False, make: Callable[..., Any] = OurSession) -> Comparison:
    """Seconds a prediction of both sides: median and 99th percentile of every round."""
    sizes = inputs.sizes
    model, generating = load_merged(inputs.model), load_merged(inputs.model)
    rows = followed(inputs, sizes.predictions)
    few = rows[: sizes.baseline_predictions]
    follow(model, inputs, rows[:3], make)
    sides = {"ours": lambda _: follow(model, inputs, rows, make),
             "ours, all": lambda _: follow(model, inputs, rows, make, exactly=True)}
    if not ours_only:
        sides["baseline"] = lambda _: follow(generating, inputs, few, Generation)
    walks = alternate(sides, sizes.rounds)
    result: list[Row] = []
    for name, share in (("median", 50), ("99th percentile", 99)):
        values = {side: [float(np.percentile(w.seconds, share)) for w in each] for side, each in walks.items()}
        console.print(f"  {name}: " + "; ".join(f"{side} {np.median(v):.4f} s" for side, v in values.items()))
        result += [Row(f"one prediction after one event ({what}), {name}", "whole prompt and generate", "s",
                       values[side], values.get("baseline", []), rule="times", target=target)
                   for side, what, target in _ROWS]
    return Comparison(result, details(model, inputs, walks))


def details(model: PreTrainedModel, inputs: Inputs, walks: dict[str, list[Walk]]) -> dict[str, Any]:
    """Every time that was taken, and how often the sides agree with the whole prompt's likelihoods and each other."""
    candidates, first = inputs.stream.candidates, {side: each[0] for side, each in walks.items()}
    log_p = score(model, first["ours, all"].prompts, inputs.stream.answers, "whole prompts").log_p
    likeliest = [candidates[number] for number in log_p.argmax(axis=1)]
    # as far as both go
    same = {side: float(np.mean([a == b for a, b in zip(walk.answers, likeliest, strict=False)]))
            for side, walk in first.items()}
    found = {
        "predictions": len(likeliest), "seconds": {side: [w.seconds for w in each] for side, each in walks.items()},
        "as_from_whole_prompts": same["ours"], "as_from_whole_prompts_all": same["ours, all"],
    }
    if "baseline" in first:
        known = float(np.mean([label in candidates for label in first["baseline"].answers]))
        found |= {"generated_the_same": same["baseline"], "generated_a_candidate": known}
    return found


def followed(inputs: Inputs, count: int) -> np.ndarray:
    """Rows of consecutive events of one training user, from the first with a whole history before it on."""
    log, length = inputs.log, inputs.stream.length
    rows = inputs.rows("train")
    rows = rows[rows - log.first[rows] > length + 1]
    people, counts = np.unique(log.first[rows], return_counts=True)
    enough = np.flatnonzero(counts >= count)
    person = people[enough[0] if len(enough) else counts.argmax()]
    start = int(rows[log.first[rows] == person].min())
    last = int(np.flatnonzero(log.first == person).max())
    return np.arange(start, min(start + count, last + 1))


def follow(
    model: PreTrainedModel, inputs: Inputs, rows: np.ndarray, make: Callable[..., Any], exactly: bool = False
) -> Walk:
    """Predict each of `rows`; an event is taken in within the time of the prediction that follows it.

    `make` gives a session like `OurSession` for a person whose events so far are given.
    """
    start, walk = int(rows[0]), Walk([], [], [])
    first = max(int(inputs.log.first[start]), start - 1 - inputs.stream.length)
    person = make(model, inputs, list(range(first, start - 1)))
    person.predict(start - 1, exactly)
    for row in rows.tolist():
        begun = now()
        person.append(row - 1)
        answer = person.predict(row, exactly)
        walk.seconds.append(now() - begun)
        walk.answers.append(answer)
        walk.prompts.append(person.prompt(row))
    return walk
