"""Layout `stream`: the instruction once, then one event after another, every one of them a target.

A causal model that reads `Mon 4pm home: Gaming` line by line predicts each behaviour from all that came before it and
from its own day, hour and place. One sequence of K events carries K - min_history targets where the layout `window`
carries one. With `prompt.context` history a line begins with day, hour and place of the event before it, and the first
has none; with id there are only behaviours. Answers are the same tokens in all three.

With `prompt.counts` a line in front of the events says how often the person did what before the first of them: what the
history cannot hold, once a prompt. With `prompt.prior` vector the token of an event's prior (`tables.PRIOR_TOKENS`)
stands before its label.
"""

from bisect import bisect_right
from itertools import accumulate

import numpy as np
from transformers import PreTrainedTokenizerBase

from stages.common import tables
from stages.common.errors import UserError
from stages.prompts.labels import check_labels, check_places
from stages.prompts.layout import Layout, TokenSequence
from stages.prompts.log import WEEKDAYS, EventLog
from stages.prompts.settings import Prompt

_INSTRUCTION = (
    "You are the assistant on a person's phone and know their habits well. "
    "Predict what they do next. Each activity is one of these:\n"
)
_LOG = "Their log, one activity a line{line}\n"
_LINE = {
    "next": ", as day, hour, place: activity",
    "history": ", as day, hour, place of the activity before it: activity",
    "id": "",
}
_EARLIER = "Earlier, and how often: {counts}\n"
_MOST_COUNTS = 12  # behaviours of which a prompt says how often they were done


class StreamLayout(Layout):
    """See the module. Prefix and answers are tokenised apart from each other, so training and scoring see the same."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, log: EventLog, prompt: Prompt, history: int, min_history: int,
        seed: int,
    ):
        super().__init__(tokenizer, log, prompt, history, min_history, seed)
        if prompt.stream_events <= min_history:
            raise UserError(
                f"prompt.stream_events: {prompt.stream_events}: leaves no target beside the {min_history} events of "
                "windowing.min_history"
            )
        self.events, self.counts, self.with_prior = prompt.stream_events, prompt.counts, prompt.prior == "vector"
        self.prefix = _with_bos(tokenizer) + self._instruction(_INSTRUCTION, _LOG.format(line=_LINE[self.context]))
        self._labels = [self.answer(label) for label in log.behaviors]
        self._contexts: dict[tuple[int, int, int], list[int]] = {}
        context, place = self._longest_context() if self.context == "next" else (0, "")
        context += self.with_prior
        if (least := len(self.prefix) + context + self.longest_answer) > self.max_tokens:
            raise self.too_long(least, f"{place[:60]!r}: {context} tokens with its time" if context else "")

    def answer(self, label: str) -> list[int]:
        return self.text(f" {label}\n")

    def _instruction(self, before: str, behind: str) -> list[int]:
        """Tokens of the candidates, one a line, and what stands before and behind them."""
        return self.text(before + "".join(f"{label}\n" for label in self.candidates) + behind)

    def prompt(self, row: int) -> list[int]:
        rows = self.log.history(row, self.length)
        context = self._before(row)
        room = self.max_tokens - len(self.prefix) - len(context) - self.longest_answer
        earlier = self._earlier(rows.start, room)
        history = self._fit([self._event(r) for r in rows], room - len(earlier))
        return self.prefix + earlier + [token for event in history for token in event] + context

    def context_tokens(self, weekday: int, hour: int, place: str) -> list[int]:
        """What a prompt for an event ends with: its day (0 = Monday), hour and place; nothing unless `context` is next.

        Raises:
            UserError: the place, which need not be of the log, cannot stand in a prompt.
        """
        return self._checked_context(weekday, hour, place) if self.context == "next" else []

    def event_tokens(self, weekday: int, hour: int, place: str, behavior: str) -> list[int]:
        """Tokens of a whole event, whose behaviour need not be a candidate.

        Raises:
            UserError: place or behaviour cannot stand in a prompt.
        """
        check_labels([behavior], self.special)
        answer = self.answer(behavior)
        if self.context == "id":
            return answer
        context = self._checked_context(weekday, hour, place)
        return context + answer if self.context == "next" else answer + context

    def sequences(self, rows: np.ndarray, limit: int, rng: np.random.Generator) -> list[TokenSequence]:
        is_target = np.zeros(len(self.log.first), dtype=bool)
        is_target[rows] = True
        starts = self._starts(rows)
        chosen, targets = [], 0
        for start, stop in starts[rng.permutation(len(starts))]:
            if targets >= limit:
                break
            sequence = self._sequence(int(start), int(stop), is_target)
            for values in (sequence.spans, sequence.behaviors, sequence.rows):
                del values[limit - targets :]
            chosen.append(sequence)
            targets += len(sequence.spans)
        return chosen

    def sequence_starts(self, rows: np.ndarray) -> np.ndarray:
        """The first row (N,) of the sequence in which each of `rows` (N,) is a target."""
        first, step = self.log.first[rows], self.events - self.min_history
        return first + (rows - first - self.min_history) // step * step

    def _starts(self, rows: np.ndarray) -> np.ndarray:
        """Row ranges (S, 2) that hold each of `rows` as a target once; neighbours overlap by `min_history` events."""
        starts = np.unique(self.sequence_starts(rows))
        ends = np.searchsorted(self.log.first, self.log.first[starts], side="right")
        return np.stack([starts, np.minimum(starts + self.events, ends)], axis=1)

    def _sequence(self, start: int, stop: int, is_target: np.ndarray) -> TokenSequence:
        sizes = np.array([len(self._event(r)) for r in range(start, stop)])
        sizes[-1] -= len(self._after(stop - 1))  # nothing comes later
        earlier = self._earlier(start, self.max_tokens - len(self.prefix) - int(sizes[-1]))
        over = len(self.prefix) + len(earlier) + np.cumsum(sizes[::-1])[::-1] > self.max_tokens
        self.dropped += int(over.sum())
        start += int(over.sum())
        sequence = TokenSequence(self.prefix + earlier)
        for row in range(start, stop):
            sequence.input_ids += self._before(row)
            at = len(sequence.input_ids)
            sequence.input_ids += self._labels[self.log.behavior[row]]
            if row - start >= self.min_history and is_target[row]:
                sequence.spans.append((at, len(sequence.input_ids)))
                sequence.behaviors.append(int(self.log.behavior[row]))
                sequence.rows.append(row)
            if row + 1 < stop:
                sequence.input_ids += self._after(row)
        return sequence

    def _event(self, row: int) -> list[int]:
        return self._before(row) + self._labels[self.log.behavior[row]] + self._after(row)

    def _before(self, row: int) -> list[int]:
        """Tokens of an event that stand before its label, and in the prompt for it."""
        prior = [tables.PRIOR_TOKENS + row] if self.with_prior else []
        return self._context(row) + prior if self.context == "next" else prior

    def _earlier(self, row: int, room: int) -> list[int]:
        """How often the person did what before event `row`, most often first; nothing where it takes more than `room`.

        Of behaviours that were done as often, the one done last comes first.
        """
        done = self.log.behavior[self.log.first[row] : row]
        if not self.counts or not len(done):
            return []
        numbers, latest, counts = np.unique(done[::-1], return_index=True, return_counts=True)
        order = np.lexsort([latest, -counts])[:_MOST_COUNTS]
        said = ", ".join(f"{self.log.behaviors[numbers[i]]} {counts[i]}" for i in order)
        tokens = self.text(_EARLIER.format(counts=said))
        return tokens if len(tokens) <= room else []

    def _after(self, row: int) -> list[int]:
        """Tokens of an event that only the prompts for later ones hold."""
        return self._context(row) if self.context == "history" else []

    def _checked_context(self, weekday: int, hour: int, place: str) -> list[int]:
        check_places([place], self.special)
        return self.text(_when_and_where(weekday, hour, place))

    def _context(self, row: int) -> list[int]:
        key = (int(self.log.weekday[row]), int(self.log.hour[row]), int(self.log.place[row]))
        if key not in self._contexts:
            self._contexts[key] = self._encode_context(*key)
        return self._contexts[key]

    def _encode_context(self, weekday: int, hour: int, place: int) -> list[int]:
        return self.text(_when_and_where(weekday, hour, self.log.places[place]))

    def _longest_context(self) -> tuple[int, str]:
        """Tokens of the log's longest context, and its place.

        Each that occurs is measured, since a tokenizer need not split it between hour and place; none is kept, since
        most are never in a prompt.
        """
        codes = np.unique((self.log.place.astype(np.int64) * 7 + self.log.weekday) * 24 + self.log.hour).tolist()
        return max(((len(self._encode_context(code // 24 % 7, code % 24, code // 168)), self.log.places[code // 168])
                    for code in codes), default=(0, ""))

    def _fit(self, history: list[list[int]], room: int) -> list[list[int]]:
        """The latest events that take no more than `room` tokens together."""
        kept = bisect_right(list(accumulate(map(len, reversed(history)))), room)
        self.dropped += len(history) - kept
        return history[len(history) - kept :]


def _when_and_where(weekday: int, hour: int, place: str) -> str:
    return f"{WEEKDAYS[weekday]} {clock(hour)} {place}:"


def clock(hour: int) -> str:
    """An hour of 0 to 23 as people write it: 12am, 9am, 4pm."""
    return f"{hour % 12 or 12}{'am' if hour < 12 else 'pm'}"


def _with_bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that this tokenizer begins every text with: a BOS token or nothing."""
    bare, dressed = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    return dressed[: len(dressed) - len(bare)] if dressed[-len(bare) :] == bare else dressed[: dressed.index(bare[0])]
