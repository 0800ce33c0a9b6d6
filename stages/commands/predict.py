"""What will this person do next? Reads events and questions as JSON Lines, answers each question as they come.

An event is a line such as {"time": "2024-05-06T16:20", "place": "home", "behavior": "Gaming"}; a line without a behavior
asks what it will be, and one line of JSON answers it:

    {"line": 8, "predictions": [{"behavior": "Gaming", "probability": 0.41}, ...]}

Behaviors are named as in the vocabulary, after any taxonomy; a place may be left out. Times are local, or have an offset
if params.yaml has a source.time_zone, and each person's lines stand in their order. Lines of several people are told
apart by a key "user" (text or a whole number), which goes no further than this program's memory. What a person's events
left in the model is kept between the lines, so an answer costs the new events, not the history; layout stream is
needed. With --order-only an answer has "at_least" and "at_most" for "probability". A bad line ends the program.

--decision says what an answer goes by: plain, the likeliest first; calibrated, the same with probabilities at the
temperature chosen on validation; adjusted, the largest p(y|x) / π(y)^τ first, with τ chosen on validation, so that rare
behaviours get their turn. Temperature and τ stand in the model's metrics, which `dvc repro` writes.

A question's time and place count where prompt.context is next; where it is history or id they are ignored (a time has to
be there all the same), as are with id those of the events, but for their order.
"""

import argparse
import json
import sys
import unicodedata
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
from stages.common.stage import at_least_1
from stages.params import Params, read_all
from stages.events.rules import clean
from stages.metrics.adjust import adjusted, tempered
from stages.model.load import load_merged, load_tokenizer
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.serving.session import Candidates, Session


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
            found = read_json(metrics)
            if name == "adjusted":
                return cls(tau=found["adjusted"]["tau"])
            return cls(temperature=found["calibrated"]["temperature"])
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
            raise UserError(
                f"prompt.layout: {params.prompt.layout}: a history can be kept between predictions in layout stream only"
            )
        nothing = EventLog.of(pl.DataFrame(schema=tables.SCHEMAS["events"]), vocabulary)
        self.layout = layout_of(load_tokenizer(model), nothing, params)
        self.zone, self.decision, self.share = params.source.time_zone, decision, vocabulary["share"].to_numpy()
        self.numbers = {behavior: number for number, behavior in enumerate(self.layout.candidates)}
        self.candidates = Candidates(
            load_merged(model), self.layout.prefix, self.layout.answers, params.windowing.history,
            params.prompt.max_tokens,
        )

    def person(self) -> "Person":
        """Someone of whom nothing is known yet."""
        return Person(self)


class Person:
    """One person's state."""

    def __init__(self, predictor: Predictor):
        self.predictor, self.session = predictor, Session(predictor.candidates)
        self.latest: datetime | None = None

    def append(self, time: datetime, place: str, behavior: str) -> None:
        """They did something, at a local time (or one with an offset, where the log's time zone is set).

        Raises:
            UserError: the place or the behaviour, which need not be a candidate, cannot stand in a prompt, or the time is
                before the last event's.
        """
        time = self._local(time)
        twin = next((name for name in self.predictor.numbers if name.casefold() == behavior.casefold()), behavior)
        if twin != behavior:
            raise UserError(f"behavior {behavior!r}: the vocabulary writes it {twin!r}")
        tokens = self._fitting(self.predictor.layout.event(time.weekday(), time.hour, place, behavior))
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
        context: list[int] = []
        if self.predictor.layout.told == "next":
            time = self._local(time)
            context = self._fitting(self.predictor.layout.context(time.weekday(), time.hour, place))
        weighed = self.session.weigh(context, top)
        names = [self.predictor.layout.candidates[number] for number in weighed.candidates]
        if top is None:
            p, order = self._decided(np.asarray(weighed.candidates), np.asarray(weighed.low, dtype=np.float64))
            return [{"behavior": names[place], "probability": float(p[place])} for place in order]
        return [
            {"behavior": n, "at_least": float(low), "at_most": float(high)}
            for n, low, high in zip(names, weighed.low, weighed.high, strict=True)
        ]

    def _decided(self, numbers: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the candidates `numbers` (V,) under the decision, and their places, the answer first."""
        decision = self.predictor.decision
        with np.errstate(divide="ignore"):  # a candidate's probability may round to 0
            log_p = np.log(p)[None]
        if decision.temperature != 1:
            p = np.exp(tempered(log_p, decision.temperature))[0]
        if not decision.tau:
            return p, np.arange(len(p))
        return p, np.argsort(-adjusted(log_p, self.predictor.share[numbers], decision.tau)[0], kind="stable")

    def _local(self, time: datetime) -> datetime:
        if time.tzinfo is not None:
            if not self.predictor.zone:
                raise UserError(f"time {time.isoformat()!r}: has an offset; give local time, or set source.time_zone")
            time = time.astimezone(ZoneInfo(self.predictor.zone)).replace(tzinfo=None)
        if self.latest and time < self.latest:
            raise UserError(f"time {time.isoformat()!r}: before the last event's, {self.latest.isoformat()!r}")
        return time

    def _fitting(self, tokens: list[int]) -> list[int]:
        if len(tokens) > (room := self.predictor.candidates.room):
            raise UserError(
                f"place and behavior are {len(tokens)} tokens long; beside the instruction, prompt.max_tokens leaves {room}"
            )
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
            user, time, place, behavior = _parsed(line)
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


def _parsed(line: str) -> tuple[Any, datetime, str, str | None]:
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
    return user, time, _text(found, "place") or "unknown", _text(found, "behavior")


def _text(found: dict[str, Any], key: str) -> str | None:
    """A name as stage `ingest` writes it; None where there is none."""
    value = found.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{key} {value!r}: text is needed")
    if bad := next((c for c in value if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None):
        raise UserError(f"{key} {value!r}: has the control character {bad!r}; names are one line of printable text")
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
                        help="weigh no more candidates than their order needs: faster, probabilities as bounds")
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
