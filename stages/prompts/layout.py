"""What all layouts share: their interface, and the training sequences that they make."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from transformers import PreTrainedTokenizerBase

from stages.common import tables
from stages.common.errors import UserError
from stages.prompts.labels import check_labels, check_places
from stages.prompts.log import EventLog
from stages.prompts.settings import Prompt


@dataclass
class TokenSequence:
    """A tokenised training sequence.

    `spans` are half-open token ranges that a loss may be put on; `behaviors` the number of each one's behaviour in the
    vocabulary, `rows` that of its event in the log, both -1 where the span is no behaviour.
    """

    input_ids: list[int]
    spans: list[tuple[int, int]] = field(default_factory=list)
    behaviors: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def table(sequences: Sequence[TokenSequence]) -> pl.DataFrame:
    """Table `instructions` of token sequences."""
    return pl.DataFrame(
        {
            "input_ids": [s.input_ids for s in sequences],
            "target_start": [[start for start, _ in s.spans] for s in sequences],
            "target_end": [[end for _, end in s.spans] for s in sequences],
            "target_behavior": [s.behaviors for s in sequences],
            "target_row": [s.rows for s in sequences],
        },
        schema=tables.SCHEMAS["instructions"],
    )


class Layout(ABC):
    """Renders events as tokens. `answers[i]` are the tokens of behaviour i and its terminator.

    `dropped` counts the events that were left out, oldest first, to keep prompts within `prompt.max_tokens`; answers
    are never cut. `context` is `prompt.context`: whose times and places are in a prompt.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, log: EventLog, prompt: Prompt, history: int, min_history: int,
        seed: int,
    ):
        """Tokenise what every prompt shares.

        Args:
            history: events before the target in a prompt, at most.
            min_history: events before a target in a training sequence, at least.

        Raises:
            UserError: a label or a place cannot stand in a prompt, or prompts without any history exceed the limit.
        """
        # those with a role, and those that a tokenizer merely knows: text that holds one is not read as text
        known = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
        special = sorted({*tokenizer.all_special_tokens, *known})
        check_labels(log.behaviors, special)
        if prompt.context != "id":  # there no place is in any prompt
            check_places(log.places, special)
        self.tokenizer, self.special, self.log, self.seed = tokenizer, special, log, seed
        self.context, self.max_tokens = prompt.context, prompt.max_tokens
        self.length, self.min_history = history, min_history
        self.candidates = log.behaviors[: log.vocabulary_size]
        self.dropped = 0
        self.answers = [self.answer(label) for label in self.candidates]
        self.longest_answer = max(map(len, self.answers))

    @abstractmethod
    def answer(self, label: str) -> list[int]:
        """Tokens of a label and its terminator, as they follow a prompt."""

    @abstractmethod
    def prompt(self, row: int) -> list[int]:
        """Tokens before the answer of event `row`: instruction, history, its time and place where `context` is next."""

    @abstractmethod
    def sequences(self, rows: np.ndarray, limit: int, rng: np.random.Generator) -> list[TokenSequence]:
        """Training sequences with at most `limit` targets among `rows` (ascending), a random choice of sequences."""

    def text(self, text: str) -> list[int]:
        """Tokens of a piece of plain text; nothing in it is read as a control token."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids

    def too_long(self, tokens: int, place: str = "") -> UserError:
        """The error for prompts that no shortening of the history can save; `place`: what makes this one long."""
        cure = ("raise it, keep the most frequent behaviours by source.top, or merge behaviours by source.taxonomy"
                + (place and f", or shorten places ({place})"))
        return UserError(f"prompt.max_tokens: {self.max_tokens}: instruction and {len(self.candidates)} candidates "
                         f"alone take {tokens} tokens; {cure}")


def prompts(layout: Layout, rows: Iterable[int]) -> list[list[int]]:
    """Prompts of several windows, in the order of `rows`."""
    return [layout.prompt(int(row)) for row in rows]
