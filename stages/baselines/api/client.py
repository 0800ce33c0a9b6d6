"""One question to a chat API that speaks OpenAI's protocol, asked again where that can help.

Where and as whom to ask stands in the environment alone (`OPENAI_BASE_URL`, `OPENAI_API_KEY`), and neither is
written to a file, a message or a log.
"""

import email.utils
import json
import math
import os
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from stages.baselines.api.cache import Answer
from stages.common.console import duration
from stages.common.errors import UserError

FIRST_WAIT = 0.5
"""Seconds before the second attempt, about; they double with every attempt."""

LONGEST_WAIT = 600.0
"""Seconds that an endpoint may ask us to wait; above that the run ends, to be continued."""

_LONGEST_BACKOFF = 60.0
_PUBLIC = "https://api.openai.com/v1"
_BUSY = (408, 409, 429)  # and all from 500: later, the same question may be answered
_SHOWN = 300


class Stopped(Exception):
    """Another question failed for good, or somebody stopped the run: this one is given up."""


class Again(Exception):
    """This attempt failed as the next need not; `wait` is how many seconds the endpoint asks for, None for no wish."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


def endpoint() -> str:
    """The address that questions go to."""
    return os.environ.get("OPENAI_BASE_URL") or _PUBLIC


def has_key() -> bool:
    return bool(os.environ.get("OPENAI_API_KEY"))


class Client:
    """Asks from several threads at once; `stop` ends every wait."""

    def __init__(self, attempts: int, timeout: float):
        """`attempts` are those of each question, the first included; `timeout` is in seconds of silence."""
        try:
            import openai
        except ImportError:
            raise UserError("API models need the package openai: pip install -e '.[api]'") from None
        self.openai, self.attempts, self.stop = openai, attempts, threading.Event()
        # its own retries end after eight seconds, and do not see an answer that is no answer
        self._client = openai.OpenAI(base_url=endpoint(), max_retries=0, timeout=timeout)

    def ask(self, request: dict[str, Any]) -> Answer:
        """The answer to a chat completion `request`.

        Raises:
            UserError: the endpoint will not answer this question, or did not in all attempts.
            Stopped: `stop` was set while this waited.
        """
        for attempt in range(self.attempts):
            if self.stop.is_set():
                raise Stopped
            try:
                return self._attempt(request)
            except Again as error:
                reason, asked = str(error), error.wait or 0.0
            if asked > LONGEST_WAIT:
                raise UserError(f"the endpoint asks to wait {duration(asked)} ({reason}); what was answered is kept, "
                                "run the same command again then")
            if attempt + 1 < self.attempts:
                self.stop.wait(max(asked, backoff(attempt)))
        raise UserError(f"the endpoint gave no answer in {self.attempts} attempts ({reason}); what was answered is "
                        "kept, run the same command again to go on")

    def _attempt(self, request: dict[str, Any]) -> Answer:
        api, began = self.openai, time.monotonic()
        try:
            answer = self._client.chat.completions.create(**request)
        except api.APIStatusError as error:
            if error.code == "content_filter":
                return Answer(content=None, refused=True, finished="content_filter", prompt_tokens=None,
                              completion_tokens=None, model=request["model"], fingerprint=None,
                              seconds=time.monotonic() - began)
            if error.code == "insufficient_quota" or not (error.status_code in _BUSY or error.status_code >= 500):
                raise self._refused(error, request) from None
            raise Again(f"status {error.status_code}", retry_after(error.response.headers)) from None
        except api.APITimeoutError:
            raise Again("no answer in time") from None
        except api.APIConnectionError:
            raise Again("connection failed") from None
        except (api.APIResponseValidationError, json.JSONDecodeError, UnicodeDecodeError):
            raise Again("no JSON came back") from None
        return _read(answer, request, time.monotonic() - began)

    def _refused(self, error: Any, request: dict[str, Any]) -> UserError:
        if error.status_code in (401, 403):  # its text may quote the key
            return UserError(f"OPENAI_API_KEY: the endpoint does not accept it (status {error.status_code})")
        text = str(error.message).replace(self._client.api_key, "…")[:_SHOWN]
        if error.status_code == 404:
            return UserError(f"api.model: {request['model']}: the endpoint does not know it, or OPENAI_BASE_URL is not "
                             f"the address of an API: {text}")
        structured = "response_format" in request
        hint = "; an endpoint without structured output needs `api.answer: text`" if structured else ""
        return UserError(f"the endpoint refused the question (status {error.status_code}): {text}{hint}")


def backoff(attempt: int) -> float:
    """Seconds to wait after failed attempt `attempt`, 0 and up: doubling, and drawn, so that clients part."""
    return min(_LONGEST_BACKOFF, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait (RFC 9110, section 10.2.3: a number or a date), None for no wish."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _read(answer: Any, request: dict[str, Any], seconds: float) -> Answer:
    try:
        choice, usage = answer.choices[0], answer.usage
        message = choice.message
        refused = bool(getattr(message, "refusal", None)) or choice.finish_reason == "content_filter"
        return Answer(
            content=message.content, refused=refused, finished=choice.finish_reason or "unknown",
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            model=answer.model or request["model"], fingerprint=getattr(answer, "system_fingerprint", None),
            seconds=seconds,
        )
    except (AttributeError, TypeError, IndexError, ValueError):  # the client checks no types
        raise Again("what came back is no chat completion") from None
