"""Layout `window`: the paper's, one prompt a target, in the model's chat format where it has one.

Five parts (paper 3.1.1): task, role, history, candidates, answer; three ways of asking (its Appendix D, in our words),
one drawn for each window by a seeded hash, in training as in testing.
"""

import hashlib
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from stages.prompts.layout import Layout, TokenSequence
from stages.prompts.log import WEEKDAYS, EventLog

_ROLE = (
    "You are the assistant on a person's phone and infer what they will do from what they did before. "
    "Predict the next behaviour; answer with one of the candidates and nothing else."
)
_INSTRUCTIONS = (  # with day, hour and place of the event to predict
    "So far this user has done, in order: {history}. The next behaviour falls on this day, hour and place: {next}. "
    "Pick the answer from the candidates:\n{candidates}",
    "A user's history of behaviours: {history}. Day, hour and place of what comes next: {next}. Out of this set of "
    "behaviours, suggest the one that the user will do:\n{candidates}",
    "Given is a user's sequence of behaviours: {history}. What follows happens at (day, hour, place) {next}. Recommend "
    "the next behaviour from the following candidates:\n{candidates}",
)
_INSTRUCTIONS_WITHOUT_NEXT = (  # the same, where they are not in the prompt
    "So far this user has done, in order: {history}. Pick the next behaviour from the candidates:\n{candidates}",
    "A user's history of behaviours: {history}. Out of this set of behaviours, suggest the one that the user will do "
    "next:\n{candidates}",
    "Given is a user's sequence of behaviours: {history}. Recommend the next behaviour from the following "
    "candidates:\n{candidates}",
)


class WindowLayout(Layout):
    """See the module."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, log: EventLog, *settings: Any):
        super().__init__(tokenizer, log, *settings)
        if len(log.first) and (least := len(self._render(0, 0)) + self.longest_answer) > self.max_tokens:
            raise self.too_long(least)

    def answer(self, label: str) -> list[int]:
        if self.tokenizer.chat_template is None:
            return self.text(f" {label}\n")
        # the token that ends a turn in this model's chat format; a newline would be no end there
        return self.text(label) + [self.tokenizer.eos_token_id]

    def prompt(self, row: int) -> list[int]:
        events = len(self.log.history(row, self.length))
        room = self.max_tokens - self.longest_answer
        kept, tokens = events, self._render(row, events)
        while len(tokens) > room and kept:
            kept -= 1
            tokens = self._render(row, kept)
        if len(tokens) > room:
            place = self.log.places[self.log.place[row]]
            raise self.too_long(len(tokens) + self.longest_answer, repr(place[:60]) if self.context == "next" else "")
        self.dropped += events - kept
        return tokens

    def sequences(self, rows: np.ndarray, limit: int, rng: np.random.Generator) -> list[TokenSequence]:
        chosen = rng.choice(rows, size=min(limit, len(rows)), replace=False)
        result = []
        for row in chosen.tolist():
            prompt, behavior = self.prompt(row), int(self.log.behavior[row])
            answer = self.answers[behavior]
            span = (len(prompt), len(prompt) + len(answer))
            result.append(TokenSequence(prompt + answer, [span], [behavior], [row]))
        return result

    def _render(self, row: int, events: int) -> list[int]:
        history = ", ".join(self._event(r) for r in self.log.history(row, events)) or "nothing yet"
        parts = {"history": history, "candidates": "\n".join(self.candidates)}
        if self.context == "next":
            parts["next"] = f"({self._when(row)})"
        wordings = _INSTRUCTIONS if self.context == "next" else _INSTRUCTIONS_WITHOUT_NEXT
        digest = hashlib.blake2b(f"{self.seed}:{row}".encode(), digest_size=8).digest()
        instruction = wordings[int.from_bytes(digest, "big") % len(wordings)].format(**parts)
        if self.tokenizer.chat_template is None:
            return self.tokenizer(f"{_ROLE}\n\n{instruction}\n\nAnswer:").input_ids
        turns = [{"role": "system", "content": _ROLE}, {"role": "user", "content": instruction}]
        return self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]

    def _event(self, row: int) -> str:
        label = self.log.behaviors[self.log.behavior[row]]
        return f"({label})" if self.context == "id" else f"({self._when(row)}, {label})"

    def _when(self, row: int) -> str:
        return f"{WEEKDAYS[self.log.weekday[row]]}, {self.log.hour[row]}, {self.log.places[self.log.place[row]]}"
