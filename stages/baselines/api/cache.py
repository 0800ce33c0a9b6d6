"""Answers of an API, kept in the user's cache by what was asked: nothing that was paid for is asked again.

One file an answer, so that a kill loses none and runs side by side do not disturb one another. A file holds the answer,
never the question: of that, the endpoint's address included, there is a hash only.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.common.files import atomic_file


class Answer(BaseModel):
    """What came back for one prompt.

    Attributes:
        content: the answer's text; None where there is none.
        refused: the model, or a filter before it, would not answer.
        finished: why it ended, as the API says: `stop` is a whole answer, `length` one that was cut.
        prompt_tokens: as counted by the endpoint, as are `completion_tokens`; None where it does not count.
        model: what the endpoint says that it ran, `fingerprint` its version there.
        seconds: from the question to the answer, the attempt that succeeded only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    content: str | None
    refused: bool
    finished: str
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str
    fingerprint: str | None
    seconds: float

    def tokens(self, estimate: int) -> int:
        """Read and written together, `estimate` where the endpoint does not count."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return estimate
        return self.prompt_tokens + self.completion_tokens


def key_of(endpoint: str, request: dict[str, Any]) -> str:
    """Hash of a question: same address, same model, same words and same settings, or another key."""
    text = json.dumps([endpoint, request], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Cache:
    """Answers by `key_of` their questions, below `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def get(self, key: str) -> Answer | None:
        """The answer, or None: there is none yet, or a loss of power left no whole one."""
        try:
            return Answer.model_validate_json(self._path(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        with atomic_file(self._path(key)) as part:
            part.write_text(answer.model_dump_json() + "\n", encoding="utf-8")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"  # folders of few files: each write lists its folder
