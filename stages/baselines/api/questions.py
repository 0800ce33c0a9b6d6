"""A window as a question to a chat API, and what its answer means."""

import json
import unicodedata
from types import SimpleNamespace
from typing import Any, Literal

from stages.baselines.api.cache import Answer
from stages.baselines.fitting.settings import Context
from stages.prompts.labels import check_labels
from stages.prompts.log import EventLog
from stages.prompts.settings import PromptParams
from stages.prompts.window import WindowLayout

Form = Literal["schema", "text"]
Turns = list[dict[str, str]]

INVALID = -1
"""In place of a behaviour's number: the answer is none of them."""

_KEY = "behavior"
_BYTES_A_TOKEN = 3  # English has four and more, our weekdays, hours and punctuation fewer
_SPARE_TOKENS = 16


class _Chat:
    """Stands where a layout has a tokenizer, for a model whose tokens nobody sees: a prompt is its turns."""

    chat_template = "turns"
    added_tokens_decoder: dict[int, Any] = {}
    all_special_tokens: tuple[str, ...] = ()
    eos_token_id = 0

    def apply_chat_template(self, turns: Turns, **_: Any) -> dict[str, Turns]:
        return {"input_ids": turns}

    def __call__(self, text: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[0])


class Questions:
    """Requests for chat completions, in the words of layout `window`; `labels` are the candidates in their order."""

    def __init__(self, log: EventLog, params: PromptParams, context: Context, model: str, form: Form):
        check_labels(log.behaviors)
        windowing = params.windowing
        prompt = params.prompt.model_copy(update={"layout": "window", "context": context})
        self._layout = WindowLayout(_Chat(), log, prompt, windowing.history, windowing.min_history, params.data_seed)
        self.labels, self.form = self._layout.candidates, form
        longest = max(len(json.dumps({_KEY: label}, ensure_ascii=False).encode()) for label in self.labels)
        # no token is less than a byte
        self._fixed = {"model": model, "temperature": 0, "max_tokens": longest + _SPARE_TOKENS}
        self._answer_estimate = longest // _BYTES_A_TOKEN + 1
        if form == "schema":
            schema = {"type": "object", "properties": {_KEY: {"type": "string", "enum": list(self.labels)}},
                      "required": [_KEY], "additionalProperties": False}
            self._fixed["response_format"] = {
                "type": "json_schema", "json_schema": {"name": "next_behavior", "strict": True, "schema": schema},
            }

    def request(self, row: int) -> dict[str, Any]:
        """What is sent about the window whose target is `row`; nothing in it identifies users."""
        return {**self._fixed, "messages": self._layout.prompt(row)}

    def estimate(self, request: dict[str, Any]) -> int:
        """Tokens that a request will take, the answer's included; rather too many than too few."""
        size = len(json.dumps(request, ensure_ascii=False).encode())
        return size // _BYTES_A_TOKEN + 1 + self._answer_estimate

    def read(self, answer: Answer) -> int:
        """Number of the behaviour that an answer names; `INVALID` for none, several, a refusal, or half a text."""
        if answer.refused or answer.content is None or answer.finished == "length":
            return INVALID
        if self.form == "schema":
            try:
                return self.labels.index(json.loads(answer.content)[_KEY])
            except (ValueError, KeyError, TypeError, IndexError):  # no JSON, another object, no candidate
                return INVALID
        meant = _plain(answer.content)
        found = [number for number, label in enumerate(self.labels) if _plain(label) == meant]
        return found[0] if len(found) == 1 else INVALID


def _plain(text: str) -> str:
    """What two writings of one name share: no case, one kind of space, no marks around it."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    inner = [i for i, letter in enumerate(text) if letter.isalnum()]
    return text[inner[0] : inner[-1] + 1] if inner else text
