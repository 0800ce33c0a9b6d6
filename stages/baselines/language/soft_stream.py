"""Layout `stream` with soft tokens: behind each mention of a behaviour its own, before each label the user's, if any.

    candidates  "Gaming\n" ⟨Gaming⟩ "Music\n" ⟨Music⟩ …
    log         "Mon 4pm home:" ⟨user⟩ " Gaming\n" ⟨Gaming⟩ "Tue 9am office:" ⟨user⟩ " Music\n" …

A behaviour's token follows label and newline, so that no target is read behind its own token, and the answers are the
same tokens as without. One sequence still carries a target an event, where a prompt a target would read 30 times as
much.
"""

import numpy as np
from transformers import PreTrainedTokenizerBase

from stages.prompts.layout import TokenSequence
from stages.prompts.log import EventLog
from stages.prompts.settings import PromptParams
from stages.prompts.stream import StreamLayout

_USER = -1  # stands for a user's token until it is known how much of the log is in the prompt


class SoftStreamLayout(StreamLayout):
    """See the module.

    The soft tokens of the V behaviours are the ids `size` and up; that of all behaviours outside the vocabulary is the
    next one; users' are those behind it: id `size` + V + 1 + i means the person of `users[i]`.

    Attributes:
        users: pairs (first, row) of rows: what is known of a person before event `row` from the events `first` and
            later, none of them where the two are equal. The prompt holds the same events: a soft token remembers no
            more than the words do.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, log: EventLog, params: PromptParams, size: int, with_users: bool
    ):
        self.size, self.with_users = size, with_users
        self._numbers: dict[tuple[int, int], int] = {}
        windowing = params.windowing
        super().__init__(tokenizer, log, params.prompt, windowing.history, windowing.min_history, params.data_seed)

    @property
    def users(self) -> list[tuple[int, int]]:
        return list(self._numbers)

    @property
    def items(self) -> int:
        """V + 1: the behaviours of the vocabulary, and all others together."""
        return self.log.vocabulary_size + 1

    def prompt(self, row: int) -> list[int]:
        before = self.dropped
        ids = super().prompt(row)
        events = len(self.log.history(row, self.length)) - (self.dropped - before)
        return self._named(ids, row - events, row + 1)

    def _sequence(self, start: int, stop: int, is_target: np.ndarray) -> TokenSequence:
        before = self.dropped
        sequence = super()._sequence(start, stop, is_target)
        ids = self._named(sequence.input_ids, start + self.dropped - before, stop)
        return TokenSequence(ids, sequence.spans, sequence.behaviors, sequence.rows)

    def _named(self, ids: list[int], first: int, stop: int) -> list[int]:
        """`ids` of a prompt or sequence of the events `first` up to `stop`, the last one's behaviour open, users named.

        Raises:
            ValueError: the soft tokens are not as many as the behaviours and users that are mentioned.
        """
        lines = stop - first
        found, expected = sum(token >= self.size for token in ids), len(self.candidates) + lines - 1
        if found != expected or ids.count(_USER) != lines * self.with_users:
            raise ValueError(f"{found} soft tokens of behaviours and {ids.count(_USER)} of users in {lines} lines")
        rows = iter(range(first, stop))
        return [self._user(first, next(rows)) if token == _USER else token for token in ids]

    def _user(self, first: int, row: int) -> int:
        return self.size + self.items + self._numbers.setdefault((first, row), len(self._numbers))

    def _instruction(self, before: str, behind: str) -> list[int]:
        candidates = [self.text(f"{label}\n") + [self.size + i] for i, label in enumerate(self.candidates)]
        return self.text(before) + [token for each in candidates for token in each] + self.text(behind)

    def _before(self, row: int) -> list[int]:
        return super()._before(row) + [_USER] * self.with_users

    def _after(self, row: int) -> list[int]:
        return [self.size + min(int(self.log.behavior[row]), self.items - 1)] + super()._after(row)

    def _longest_context(self) -> tuple[int, str]:
        tokens, place = super()._longest_context()
        return tokens + self.with_users, place
