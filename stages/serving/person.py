"""A tuned model that follows people: what each one did, and what they will do next."""

from array import array
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.errors import UserError
from stages.common.names import check_printable
from stages.events.rules import clean
from stages.model.load import load_merged, load_tokenizer
from stages.params import Params
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.prompts.stream import StreamLayout
from stages.serving.decision import PLAIN, Decision
from stages.serving.session import Session, SharedModel
from stages.serving.times import Moment, TimeReader, parsed, shown

_KEPT = 50_000  # events whose tokens are kept: people who did the same at the same hour and place share them


class Predictor:
    """A tuned model that follows people, one `Person` each."""

    def __init__(self, model: Path, vocabulary: pl.DataFrame, params: Params, decision: Decision = PLAIN):
        """Load the model.

        Args:
            model: folder with base.json, and an adapter if it has one.
            vocabulary: the candidates.
            params: `prompt`, `windowing` and `source` are used.

        Raises:
            UserError: the layout is not `stream`, in whose prompts alone the history stands before all that changes.
        """
        if params.prompt.layout != "stream":
            raise UserError(f"prompt.layout: {params.prompt.layout}: a history can be kept between predictions in "
                            "layout stream only")
        no_events = EventLog.from_tables(pl.DataFrame(schema=tables.SCHEMAS["events"]), vocabulary)
        layout = layout_of(load_tokenizer(model), no_events, params)
        assert isinstance(layout, StreamLayout)
        self.layout, self.times = layout, TimeReader(params.source)
        self.decision, self.share = decision, vocabulary["share"].to_numpy()
        self.numbers = {behavior: number for number, behavior in enumerate(layout.candidates)}
        self._written = {behavior.casefold(): behavior for behavior in layout.candidates}
        self.model = SharedModel(load_merged(model), layout.prefix, layout.answers, params.windowing.history,
                                 params.prompt.max_tokens)
        self.event = lru_cache(_KEPT)(self._event)
        self.context = lru_cache(_KEPT)(self._context)

    def person(self) -> "Person":
        """Someone of whom nothing is known yet."""
        return Person(self)

    def _event(self, weekday: int, hour: int, place: str, behavior: str) -> tuple[array, int]:
        """Tokens of an event, and which candidate it was."""
        if (written := self._written.get(behavior.casefold(), behavior)) != behavior:
            raise UserError(f"behavior {shown(behavior)}: the vocabulary writes it {written!r}")
        tokens = self._checked(self.layout.event_tokens(weekday, hour, place, behavior))
        return array("I", tokens), self.numbers.get(behavior, -1)

    def _context(self, weekday: int, hour: int, place: str) -> list[int]:
        """Tokens of what is known of an event before it happens."""
        return self._checked(self.layout.context_tokens(weekday, hour, place))

    def _checked(self, tokens: list[int]) -> list[int]:
        if len(tokens) > (room := self.model.room):
            raise UserError(f"place and behavior are {len(tokens)} tokens long; beside the instruction, "
                            f"prompt.max_tokens leaves {room}")
        return tokens


class Person:
    """One person's state.

    What their events left in the model is kept until `session.let_go` is called; the events themselves always are.
    """

    __slots__ = ("latest", "predictor", "session")

    def __init__(self, predictor: Predictor):
        self.predictor, self.session = predictor, Session(predictor.model)
        self.latest: Moment | None = None

    def append(self, time: datetime | str, place: str | None = None, behavior: str | None = None) -> None:
        """They did something.

        >>> person.append("2024-05-06T07:50", "home", "Gaming")           # doctest: +SKIP
        >>> person.append("2024-05-06T08:20", behavior="Taking a taxi")   # doctest: +SKIP

        Args:
            time: a datetime, or an ISO text such as 2024-05-06T16:20; local, or with an offset where the log's time
                zone is set.
            place: None where it is not known.
            behavior: as the vocabulary names it; need not be a candidate.

        Raises:
            UserError: the time is none, or before the last event's; a name cannot stand in a prompt; there is no
                behaviour. What was known before is not changed by it.
        """
        moment = self.predictor.times.read(time)
        done = name(behavior, "behavior")
        if done is None:
            raise UserError(f"behavior {shown(behavior)}: what they did is needed; append(time, place, behavior), "
                            "where place may be None")
        latest, local = moment.after(self.latest), moment.local
        self.session.append(*self.predictor.event(local.weekday(), local.hour, name(place, "place") or "unknown", done))
        self.latest = latest

    def predict(
        self, time: datetime | str, place: str | None = None, top: int | None = None
    ) -> list[dict[str, Any]]:
        """All candidates, the answer first: `behavior`, and what the decision prints of it.

        >>> person.predict("2024-05-06T08:40")[0]   # doctest: +SKIP
        {'behavior': 'Gaming', 'probability': 0.41}

        Args:
            time, place: of the event to predict, as in `append`; ignored unless `prompt.context` is `next`.
            top: only the order of the likeliest `top`, which is faster: `at_least` and `at_most` take the place of
                `probability`. Not for decisions that move probabilities.

        Returns:
            `probability` is at the decision's temperature. With a τ the order is that of `adjusted`, which stands
            beside it: each candidate's share of p(y|x) / π(y)^τ.

        Raises:
            UserError: as `append`.
        """
        return self.answer(self.question(time, place), top)

    def question(self, time: datetime | str, place: str | None = None) -> list[int]:
        """Tokens of a question, none where prompts do not tell time and place.

        Raises:
            UserError: as `append`.
        """
        if self.predictor.layout.context != "next":
            parsed(time)
            return []
        moment = self.predictor.times.read(time)
        moment.after(self.latest)
        return self.predictor.context(moment.local.weekday(), moment.local.hour, name(place, "place") or "unknown")

    def answer(self, question: Sequence[int], top: int | None = None) -> list[dict[str, Any]]:
        """The answer to what `question` made: see `predict`."""
        scored, candidates = self.session.score(question, top), self.predictor.layout.candidates
        if top is None:
            columns = self.predictor.decision.columns(scored.low, self.predictor.share[scored.candidates])
            order = (-columns[list(columns)[-1]]).argsort(kind="stable")
        else:
            columns, order = {"at_least": scored.low, "at_most": scored.high}, np.arange(len(scored.candidates))
        return [{"behavior": candidates[scored.candidates[place]],
                 **{key: float(values[place]) for key, values in columns.items()}} for place in order]


def name(value: str | None, kind: str) -> str | None:
    """A name as stage `ingest` writes it; None where there is none.

    Raises:
        UserError: it is no text, or has control characters.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{kind} {shown(value)}: text is needed")
    return _cleaned(value, kind) if len(value) <= 200 else _clean(value, kind)


def _clean(value: str, kind: str) -> str | None:
    check_printable(value, kind)
    return pl.select(clean(pl.lit(value))).item() or None


_cleaned = lru_cache(10_000)(_clean)  # a log has few names, and Polars is slow for one
