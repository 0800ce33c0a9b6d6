"""Many people, of whom only those asked about lately keep what their events left in a language model."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from stages.serving.person import Person, Predictor


@dataclass(frozen=True)
class Limits:
    """How many people's keys and values are kept, and how many bytes these and all people's events take together."""

    people: int = 10_000
    bytes: int = 4 * 10**9


DEFAULT = Limits()


class People:
    """Each one's state by a key; within `limits`, the longest unused lets go of keys and values first.

    What somebody did stays: a few kB a person (`stages.serving.past`). So the next answer is the same, and takes the
    time of reading them anew, which `read_anew` counts. Where what all people did takes more than the limit, nobody
    keeps keys and values.
    """

    def __init__(self, predictor: Predictor, limits: Limits = DEFAULT):
        self.predictor, self.limits = predictor, limits
        self.all: dict[Hashable, Person] = {}
        self.bytes = self.read_anew = 0  # bytes of all
        self._kept: OrderedDict[Hashable, int] = OrderedDict()  # bytes of each, the longest unused first
        self._gone: set[Hashable] = set()

    def append(self, key: Hashable, *event: Any) -> None:
        """Somebody did something: `Person.append`.

        Raises:
            UserError: as `Person.append`; who is not known yet is not known after it.
        """
        person = self.all.get(key) or self.predictor.person()
        stayed = person.past.bytes if key in self.all else 0
        person.append(*event)
        self.all[key] = person
        self.bytes += person.past.bytes - stayed
        self._count(key, person)
        self._make_room(None, 0)

    def predict(self, key: Hashable, time: Any, place: Any, top: int | None) -> list[dict[str, Any]]:
        """What somebody will do: `Person.predict`.

        Raises:
            UserError: as `Person.predict`.
        """
        person = self.all.get(key) or self.predictor.person()
        question = person.question(time, place)
        if key not in self.all:  # who is asked about for the first time is known from now on
            self.all[key] = person
            self.bytes += person.past.bytes
        self._make_room(key, person.kept_to_answer(question))
        self.read_anew += key in self._gone
        self._gone.discard(key)
        answer = person.answer(question, top)
        self._count(key, person)
        self._make_room(None, 0)
        return answer

    def _count(self, key: Hashable, person: Person) -> None:
        """Book what a person keeps in the language model, as the latest used."""
        before = self._kept.pop(key, 0)
        now = person.kept
        if now:
            self._kept[key] = now
        self.bytes += now - before

    def _make_room(self, key: Hashable, needed: int) -> None:
        """Let the longest unused go until `key` can take `needed` bytes; `key` itself keeps what it has."""
        own = self._kept.pop(key, 0)
        while self._kept and (self.bytes - own + needed > self.limits.bytes
                              or len(self._kept) + (needed > 0) > self.limits.people):
            other, taken = self._kept.popitem(last=False)
            self._let_go(other, taken)
        if own:
            self._kept[key] = own

    def _let_go(self, key: Hashable, taken: int) -> None:
        self.all[key].let_go()
        self._gone.add(key)
        self.bytes -= taken
