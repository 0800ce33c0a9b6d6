"""A tuned language model that follows people: what an event and a question are to it."""

from array import array
from functools import lru_cache
from pathlib import Path

import polars as pl

from stages.common import tables
from stages.common.errors import UserError
from stages.model.load import load_merged, load_tokenizer
from stages.params import Params
from stages.prompts.layouts import layout_of
from stages.prompts.log import EventLog
from stages.prompts.stream import StreamLayout
from stages.serving.session import Session, SharedModel

_KEPT = 50_000  # events whose tokens are kept: people who did the same at the same hour and place share them


class LanguageModel:
    """Tokens of events and questions, and a `Session` for each person."""

    def __init__(self, folder: Path, vocabulary: pl.DataFrame, params: Params):
        """Load the model.

        Args:
            folder: with base.json, and an adapter if it has one.
            vocabulary: the candidates.
            params: `prompt` and `windowing` are used.

        Raises:
            UserError: the layout is not `stream`, in whose prompts alone the history stands before all that changes.
        """
        if params.prompt.layout != "stream":
            raise UserError(f"prompt.layout: {params.prompt.layout}: a history can be kept between predictions in "
                            "layout stream only")
        if params.prompt.counts or params.prompt.prior != "none":
            what = "counts: true" if params.prompt.counts else f"prior: {params.prompt.prior}"
            raise UserError(f"prompt.{what}: the service tells a language model nothing but the history; run without, "
                            "or take --model models/habits")
        no_events = EventLog.from_tables(pl.DataFrame(schema=tables.SCHEMAS["events"]), vocabulary)
        layout = layout_of(load_tokenizer(folder), no_events, params)
        assert isinstance(layout, StreamLayout)
        self.layout = layout
        self.shared = SharedModel(load_merged(folder), layout.prefix, layout.answers, params.windowing.history,
                                  params.prompt.max_tokens)
        self.event = lru_cache(_KEPT)(self._event)
        self.context = lru_cache(_KEPT)(self._context)
        self.answer = lru_cache(_KEPT)(layout.answer)

    @property
    def told(self) -> bool:
        """Whether prompts tell a question's time and place."""
        return self.layout.context == "next"

    def session(self) -> Session:
        """Of someone of whom nothing is known yet."""
        return Session(self.shared)

    def _event(self, weekday: int, hour: int, place: str, behavior: str) -> array:
        """Tokens of an event."""
        return array("I", self._checked(self.layout.event_tokens(weekday, hour, place, behavior)))

    def _context(self, weekday: int, hour: int, place: str) -> list[int]:
        """Tokens of what is known of an event before it happens; none where prompts do not tell it."""
        return self._checked(self.layout.context_tokens(weekday, hour, place))

    def _checked(self, tokens: list[int]) -> list[int]:
        if len(tokens) > (room := self.shared.room):
            raise UserError(f"place and behavior are {len(tokens)} tokens long; beside the instruction, "
                            f"prompt.max_tokens leaves {room}")
        return tokens
