"""What will this person do next? Reads events and questions as JSON Lines, answers each question as it comes.

An event is a line such as {"time": "2024-05-06T16:20", "place": "home", "behavior": "Gaming"}; a line without a
behavior asks what it will be, and one line of JSON answers it:

    {"line": 8, "predictions": [{"behavior": "Gaming", "probability": 0.41}, ...]}

Behaviors are named as in the vocabulary, after any taxonomy; a place may be left out. Times are local, or have an
offset if params.yaml has a source.time_zone, and each person's lines stand in their order. A key "user" (text or a
whole number) says whose a line is; it goes no further than this program's memory. What a person's events left in the
model is kept between the lines, so an answer costs the new events, not the history; layout stream is needed. With
--order-only an answer has "at_least" and "at_most" instead of "probability". A bad line ends the program.

--decision says what an answer goes by: plain, the likeliest first; calibrated, the same with probabilities at the
temperature chosen on validation; adjusted, the largest p(y|x) / π(y)^τ first, with τ chosen on validation, so that rare
behaviours get their turn. Temperature and τ stand in the model's metrics, which `dvc repro` writes.

A question's time and place count where prompt.context is next; where it is history or id they are ignored (a time has
to be there all the same). With id those of the events are ignored too, except for their order.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.errors import UserError, run
from stages.common.files import read_json
from stages.common.names import case_twins, check_printable
from stages.common.stage import at_least_1
from stages.events.rules import clean
from stages.metrics.adjust import adjusted, tempered
from stages.model.load import load_merged, load_tokenizer
from stages.params import Params, read_all
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.prompts.stream import StreamLayout
from stages.serving.session import Session, SharedModel


@dataclass(frozen=True)
class Decision:
    """What an answer goes by: `tau` of logit adjustment orders the candidates, `temperature` moves probabilities."""

    tau: float = 0.0
    temperature: float = 1.0

    @classmethod
    def read(cls, name: str, metrics: Path) -> "Decision":
        """Decision `name` (plain, calibrated or adjusted) as stage `evaluate` chose it.

        Raises:
            UserError: the metrics are absent, or of another kind.
        """
        if name == "plain":
            return cls()
        try:
            found = read_json(metrics)[name]
            return cls(tau=found["tau"]) if name == "adjusted" else cls(temperature=found["temperature"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"--decision {name}: {metrics}: no metrics of stage evaluate; `dvc repro` writes them, and "
                            "--metrics names others") from None


class Predictor:
    """A tuned model that follows people, one `Person` each."""

    def __init__(self, model: Path, vocabulary: pl.DataFrame, params: Params, decision: Decision = Decision()):
        """Load the model.

        Args:
            model: folder with base.json, and an adapter if it has one.
            vocabulary: the candidates.
            params: `prompt` and `windowing` are used.

        Raises:
            UserError: the layout is not `stream`, in whose prompts alone the history stands before all that changes.
        """
        if params.prompt.layout != "stream":
            raise UserError(f"prompt.layout: {params.prompt.layout}: a history can be kept between predictions in "
                            "layout stream only")
        no_events = EventLog.from_tables(pl.DataFrame(schema=tables.SCHEMAS["events"]), vocabulary)
        layout = layout_of(load_tokenizer(model), no_events, params)
        assert isinstance(layout, StreamLayout)
        self.layout = layout
        self.zone, self.decision, self.share = params.source.time_zone, decision, vocabulary["share"].to_numpy()
        self.numbers = {behavior: number for number, behavior in enumerate(self.layout.candidates)}
        self.model = SharedModel(load_merged(model), self.layout.prefix, self.layout.answers, params.windowing.history,
                                 params.prompt.max_tokens)

    def person(self) -> "Person":
        """Someone of whom nothing is known yet."""
        return Person(self)


class Person:
    """One person's state."""

    def __init__(self, predictor: Predictor):
        self.predictor, self.session = predictor, Session(predictor.model)
        self.latest: datetime | None = None

    def append(self, time: datetime, place: str, behavior: str) -> None:
        """They did something, at a local time (or one with an offset, where the log's time zone is set).

        Raises:
            UserError: the place or the behaviour, which need not be a candidate, cannot stand in a prompt, or the time
                is before the last event's.
        """
        time, candidates = self._local_time(time), self.predictor.layout.candidates
        if twins := case_twins([*candidates, behavior]):
            raise UserError(f"behavior {behavior!r}: the vocabulary writes it {candidates[twins[0]]!r}")
        tokens = self._checked(self.predictor.layout.event_tokens(time.weekday(), time.hour, place, behavior))
        self.session.append(tokens, self.predictor.numbers.get(behavior, -1))
        self.latest = time

    def predict(self, time: datetime, place: str, top: int | None = None) -> list[dict[str, Any]]:
        """All candidates with their probabilities, likeliest first.

        Args:
            time, place: of the event to predict; ignored unless `prompt.context` is `next`.
            top: only the order of the likeliest `top`, which is faster: `at_least` and `at_most` take the place of
                `probability`. Not for decisions that move probabilities.

        Returns:
            `probability` is at the decision's temperature; with a `tau` the first is not the likeliest.

        Raises:
            UserError: as `append`.
        """
        layout, context = self.predictor.layout, []
        if layout.context == "next":
            time = self._local_time(time)
            context = self._checked(layout.context_tokens(time.weekday(), time.hour, place))
        scored = self.session.score(context, top)
        names = [layout.candidates[number] for number in scored.candidates]
        if top is None:
            p, order = self._decide(scored.candidates, scored.low)
            return [{"behavior": names[place], "probability": float(p[place])} for place in order]
        return [{"behavior": name, "at_least": float(low), "at_most": float(high)}
                for name, low, high in zip(names, scored.low, scored.high, strict=True)]

    def _decide(self, numbers: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the candidates `numbers` (V,) under the decision, and their places, the answer first."""
        decision = self.predictor.decision
        with np.errstate(divide="ignore"):  # a candidate's probability may round to 0
            log_p = np.log(p)[None]
        if decision.temperature != 1:
            p = np.exp(tempered(log_p, decision.temperature))[0]
        if not decision.tau:
            return p, np.arange(len(p))
        return p, np.argsort(-adjusted(log_p, self.predictor.share[numbers], decision.tau)[0], kind="stable")

    def _local_time(self, time: datetime) -> datetime:
        if time.tzinfo is not None:
            if not self.predictor.zone:
                raise UserError(f"time {time.isoformat()!r}: has an offset; give local time, or set source.time_zone")
            time = time.astimezone(ZoneInfo(self.predictor.zone)).replace(tzinfo=None)
        if self.latest and time < self.latest:
            raise UserError(f"time {time.isoformat()!r}: before the last event's, {self.latest.isoformat()!r}")
        return time

    def _checked(self, tokens: list[int]) -> list[int]:
        if len(tokens) > (room := self.predictor.model.room):
            raise UserError(f"place and behavior are {len(tokens)} tokens long; beside the instruction, "
                            f"prompt.max_tokens leaves {room}")
        return tokens


def answers(lines: Iterable[str], predictor: Predictor, top: int, order_only: bool) -> Iterator[dict[str, Any]]:
    """The answer to each question among `lines`.

    Raises:
        UserError: a line is neither event nor question; the message names its number and what is wrong.
    """
    people: dict[Any, Person] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            user, time, place, behavior = _parse(line)
            if user not in people:
                people[user] = predictor.person()
            person = people[user]
            if behavior is not None:
                person.append(time, place, behavior)
                continue
            predictions = person.predict(time, place, top if order_only else None)[:top]
        except UserError as error:
            raise UserError(f"line {number}: {error}") from None
        yield {"line": number, "predictions": predictions}


def _parse(line: str) -> tuple[Any, datetime, str, str | None]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError("no JSON object that can be read") from None
    if not isinstance(found, dict) or not isinstance(found.get("time"), str):
        raise UserError('an object with "time" is needed, such as {"time": "2024-05-06T16:20", "place": "home"}')
    if unknown := found.keys() - {"user", "time", "place", "behavior"}:
        raise UserError(f"key {min(unknown)!r}: not one of user, time, place, behavior")
    try:
        if len(found["time"].strip()) <= len("2024-05-06"):
            raise ValueError("a day without an hour")
        time = datetime.fromisoformat(found["time"])
    except ValueError:
        raise UserError(f"time {found['time']!r}: not an ISO time such as 2024-05-06T16:20") from None
    user = found.get("user")
    if isinstance(user, bool) or not isinstance(user, str | int | None):
        raise UserError("user: text or a whole number is needed")
    return user, time, _read_name(found, "place") or "unknown", _read_name(found, "behavior")


def _read_name(found: dict[str, Any], key: str) -> str | None:
    """A name as stage `ingest` writes it; None where there is none."""
    value = found.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{key} {value!r}: text is needed")
    check_printable(value, key)
    return pl.select(clean(pl.lit(value))).item()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stages.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("models/dpo"),
                        help="folder with base.json, and an adapter if it has one (default: %(default)s)")
    parser.add_argument("--vocabulary", type=Path, default=Path("data/vocabulary.parquet"),
                        help="the candidates, from stage windowing (default: %(default)s)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the settings (default: %(default)s)")
    parser.add_argument("--input", type=argparse.FileType(encoding="utf-8"), default=sys.stdin,
                        help="JSON Lines (default: standard input)")
    parser.add_argument("--top", type=at_least_1, default=5, help="candidates in an answer (default: %(default)s)")
    parser.add_argument("--order-only", action="store_true",
                        help="score no more candidates than their order needs: faster, probabilities as bounds")
    parser.add_argument("--decision", choices=("plain", "calibrated", "adjusted"), default="plain",
                        help="what an answer goes by, see above (default: %(default)s)")
    parser.add_argument("--metrics", type=Path,
                        help="metrics with τ and temperature (default: data/evaluation/<name of the model>.json)")
    args = parser.parse_args()
    if args.order_only and args.decision != "plain":
        parser.error("--order-only knows the order of the plain probabilities only; leave out it or --decision")
    decision = Decision.read(args.decision, args.metrics or Path("data/evaluation") / f"{args.model.name}.json")
    predictor = Predictor(args.model, tables.read("vocabulary", args.vocabulary), read_all(args.params), decision)
    try:
        for answer in answers(args.input, predictor, args.top, args.order_only):
            print(json.dumps(answer, ensure_ascii=False), flush=True)
    except BrokenPipeError:  # whoever asked has heard enough
        sys.stdout = None


if __name__ == "__main__":
    run(main)
