"""A predictor that follows people: what each one did, and what they will do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from stages.common.errors import UserError
from stages.common.names import check_printable
from stages.events.rules import LONGEST, clean
from stages.params import Params
from stages.past.pool import pooled
from stages.serving.decision import PLAIN, Decision
from stages.serving.habits import log_p
from stages.serving.parts import Parts
from stages.serving.past import Circumstances, Known, PersonalPast
from stages.serving.times import Moment, TimeReader, parsed, shown

if TYPE_CHECKING:
    from stages.serving.session import Session


class Predictor:
    """A model that follows people, one `Person` each."""

    def __init__(
        self, model: Path, vocabulary: pl.DataFrame, params: Params, decision: Decision = PLAIN,
        beside: Path | None = None,
    ):
        """Load the model.

        Args:
            model: folder of a pool (models/fusion), of the model of habits, or of a language model.
            vocabulary: the candidates that all people have.
            params: `source` is used, with a language model `prompt` and `windowing` too.
            beside: folder of the models that a pool names, where they do not stand beside it.

        Raises:
            UserError: as `Parts.load`; a language model's layout is not `stream`.
        """
        self.parts = Parts.load(model, vocabulary, params, beside)
        self.times, self.decision = TimeReader(params.source), decision
        self.candidates, self.share = vocabulary["behavior"].to_list(), vocabulary["share"].to_numpy()
        habits = self.parts.habits
        self.known = Known(self.candidates, habits.people.markov.places.to_list() if habits else ())
        self._written = {behavior.casefold(): behavior for behavior in self.candidates}

    @property
    def told(self) -> bool:
        """Whether a question's time and place count."""
        language = self.parts.language
        return language is None or self.parts.habits is not None or language.told

    def person(self) -> "Person":
        """Someone of whom nothing is known yet."""
        return Person(self)

    def behavior(self, name: str) -> str:
        """Refuse a behaviour that the vocabulary writes otherwise."""
        if (written := self._written.get(name.casefold(), name)) != name:
            raise UserError(f"behavior {shown(name)}: the vocabulary writes it {written!r}")
        return name

    def name(self, value: str | None, kind: str) -> str | None:
        """A name as stage `ingest` writes it; None where there is none.

        Raises:
            UserError: it is no text, has control characters, or is longer than those of a log.
        """
        if value is None:
            return None
        if not isinstance(value, str):
            raise UserError(f"{kind} {shown(value)}: text is needed")
        cleaned = _cleaned(value, kind) if len(value) <= 2 * LONGEST else _clean(value, kind)
        # a language model has its own limit, in tokens
        if self.parts.habits and cleaned and len(cleaned) > LONGEST:
            raise UserError(f"{kind} {shown(cleaned)}: longer than {LONGEST} characters, as no label of a log is")
        return cleaned


@dataclass(frozen=True)
class Question:
    """What somebody is asked about: circumstances, None where they do not count, and a language model's tokens."""

    at: Circumstances | None
    tokens: Sequence[int] = ()


class Person:
    """One person's state.

    What they did is kept, and bounded (`stages.serving.past`); what it left in a language model until `let_go`.
    """

    __slots__ = ("latest", "past", "predictor", "session")

    def __init__(self, predictor: Predictor):
        self.predictor, self.past = predictor, PersonalPast(predictor.known)
        self.latest: Moment | None = None
        language = predictor.parts.language
        self.session: Session | None = language.session() if language else None

    @property
    def kept(self) -> int:
        """Bytes that `let_go` frees."""
        return self.session.bytes if self.session else 0

    def kept_to_answer(self, question: Question) -> int:
        """What `kept` is, at most, while and after a question is answered."""
        return self.session.bytes_to_answer(question.tokens) if self.session else 0

    def let_go(self) -> None:
        """Keep what they did alone: the next answer is the same, and reads it anew."""
        if self.session:
            self.session.let_go()

    def append(self, time: datetime | str, place: str | None = None, behavior: str | None = None) -> None:
        """They did something.

        >>> person.append("2024-05-06T07:50", "home", "Gaming")           # doctest: +SKIP
        >>> person.append("2024-05-06T08:20", behavior="Taking a taxi")   # doctest: +SKIP

        Args:
            time: a datetime, or an ISO text such as 2024-05-06T16:20; local, or with an offset where the log's time
                zone is set.
            place: None where it is not known.
            behavior: as the vocabulary names it. One that it does not name is a candidate of this person's from now on.

        Raises:
            UserError: the time is none, or before the last event's; a name cannot stand in a prompt; there is no
                behaviour. What was known before is not changed by it.
        """
        predictor, language = self.predictor, self.predictor.parts.language
        moment = predictor.times.read(time)
        done = predictor.name(behavior, "behavior")
        if done is None:
            raise UserError(f"behavior {shown(behavior)}: what they did is needed; append(time, place, behavior), "
                            "where place may be None")
        latest = moment.after(self.latest)
        at, done = _circumstances(moment, latest, predictor.name(place, "place")), predictor.behavior(done)
        tokens = language.event(at.weekday, at.hour, at.place, done) if language else ()
        own = list(self.past.own)
        number = self.past.append(at, done)
        if self.session and language:
            self.session.append(tokens, number)
            if list(self.past.own) != own:
                self.session.know([language.answer(name) for name in self.past.own])
        self.latest = latest

    def predict(
        self, time: datetime | str, place: str | None = None, top: int | None = None
    ) -> list[dict[str, Any]]:
        """All candidates, the answer first: `behavior`, and what the decision prints of it.

        Candidates are the vocabulary, and what else this person did.

        >>> person.predict("2024-05-06T08:40")[0]   # doctest: +SKIP
        {'behavior': 'Gaming', 'probability': 0.41}

        Args:
            time, place: of the event to predict, as in `append`; ignored where a language model alone answers and
                `prompt.context` is not `next`.
            top: only the order of the likeliest `top`, which is faster where a language model alone answers: `at_least`
                and `at_most` take the place of `probability`. Not for decisions that move probabilities.

        Returns:
            `probability` is at the decision's temperature. With a τ the order is that of `adjusted`, which stands
            beside it: each candidate's share of p(y|x) / π(y)^τ, where π of a person's own candidate is that of the
            rarest in the vocabulary.

        Raises:
            UserError: as `append`.
        """
        return self.answer(self.question(time, place), top)

    def question(self, time: datetime | str, place: str | None = None) -> Question:
        """What is asked.

        Raises:
            UserError: as `append`.
        """
        predictor, language = self.predictor, self.predictor.parts.language
        if not predictor.told:
            parsed(time)
            return Question(None)
        moment = predictor.times.read(time)
        at = _circumstances(moment, moment.after(self.latest), predictor.name(place, "place"))
        return Question(at, language.context(at.weekday, at.hour, at.place) if language else ())

    def answer(self, question: Question, top: int | None = None) -> list[dict[str, Any]]:
        """The answer to a question: see `predict`."""
        candidates, decision = [*self.predictor.candidates, *self.past.own], self.predictor.decision
        if top is not None and self.session and self.predictor.parts.alone:
            scored = self.session.score(question.tokens, top)
            order, columns = scored.candidates, {"at_least": scored.low, "at_most": scored.high}
            return [{"behavior": candidates[number], **{key: float(each[turn]) for key, each in columns.items()}}
                    for turn, number in enumerate(order)]
        p = self._distribution(question)
        columns = decision.columns(p, self.predictor.share) if top is None else {"at_least": p, "at_most": p}
        order = (-columns[list(columns)[-1]]).argsort(kind="stable")[:top]
        return [{"behavior": candidates[number], **{key: float(each[number]) for key, each in columns.items()}}
                for number in order]

    def _distribution(self, question: Question) -> np.ndarray:
        """Probabilities of all candidates `(C,)`."""
        parts, found = self.predictor.parts, {}
        if parts.habits and question.at:
            found = log_p(parts.habits, self.past, question.at, parts.weights)
        if self.session:
            scored = self.session.score(question.tokens)
            p = np.empty(len(scored.low))
            p[scored.candidates] = scored.low
            if parts.alone:
                return p
            found[parts.spoken] = np.log(np.maximum(p, np.finfo(float).tiny))
        if list(parts.weights.values()) == [1]:
            (one,) = found.values()
            return np.exp(one.astype(np.float64))
        mixed = pooled([each[None] for each in found.values()], np.array([parts.weights[name] for name in found]))
        return np.exp(mixed[0].astype(np.float64))


def _circumstances(moment: Moment, latest: Moment, place: str | None) -> Circumstances:
    """Of `moment`, which as the person's latest is `latest`."""
    return Circumstances.of(latest.instants[0] if latest.instants else moment.local, moment.local, place)


def _clean(value: str, kind: str) -> str | None:
    check_printable(value, kind)
    return pl.select(clean(pl.lit(value))).item() or None


_cleaned = lru_cache(10_000)(_clean)  # a log has few names, and Polars is slow for one
