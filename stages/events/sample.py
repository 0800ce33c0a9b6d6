"""The beginning of a file, by which formats know their own: `fits(sample)` of each."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from stages.events import delimited, json_values, parquet, reading

SIZE = 1 << 20  # bytes
_SHOWN_LINES = 200


@dataclass(frozen=True)
class Sample:
    """What the first bytes of a file say.

    Attributes:
        text: of them, whole lines if there are several; empty where the file is no text.
        schema: the columns of a Parquet file and their types; empty for others.
    """

    path: Path
    text: str
    schema: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def lines(self) -> list[str]:
        """The first lines that are not blank."""
        found = (line.rstrip("\r") for line in self.text.split("\n"))
        return [line for line in found if line.strip()][:_SHOWN_LINES]

    @cached_property
    def header(self) -> set[str]:
        """The fields of the first line, by whichever usual separator finds most."""
        if not self.lines:
            return set()
        line = pl.Series([self.lines[0]])
        return {name.strip().strip('"') for name in max(
            (line[0].split(separator) for separator in delimited.SEPARATORS), key=len)}

    def rows(self, separator: str | None) -> list[list[str]]:
        """The fields of the first lines, quotes not read."""
        return [line.split(separator) for line in self.lines]

    @cached_property
    def content(self) -> str:
        """The text without what may stand in front of JSON."""
        return self.text.lstrip("\ufeff \t\r\n")

    @cached_property
    def value(self) -> Any:
        """The first value of JSON, or the first element of a list; of a document that goes on, nothing."""
        text = self.content
        if text.startswith("["):
            text = text[1:].lstrip()
        if not text.startswith("{"):
            return None
        try:
            return json_values.DECODER.raw_decode(text)[0]
        except (json.JSONDecodeError, RecursionError):
            return None

    @cached_property
    def keys(self) -> set[str]:
        """The keys of the first object; of a document that goes on, all that stand in its beginning."""
        if isinstance(self.value, dict):
            return set(self.value)
        if not self.content.startswith(("{", "[")):
            return set()
        return set(re.findall(r'"(\w+)"\s*:', self.text))

    @property
    def is_list(self) -> bool:
        return self.content.startswith("[")


def sample(path: Path, size: int = SIZE) -> Sample:
    """Read the beginning of a file.

    Raises:
        UserError: it is a damaged Parquet file.
    """
    start = reading.start(path, size)
    if start.startswith(b"PAR1") and not reading.is_gzip(path):
        with parquet.readable(path):
            return Sample(path, "", dict(pl.scan_parquet(path, glob=False).collect_schema()))
    for encoding in ("utf-8", "latin-1"):
        cut = start if len(start) < size else start[: start.rfind(b"\n") + 1] or start
        try:
            text = cut.decode(encoding)
        except UnicodeDecodeError as error:
            if len(start) == size and error.start > len(cut) - 4:  # a character cut through
                text = cut[: error.start].decode(encoding)
                return Sample(path, text)
            continue
        return Sample(path, "" if "\0" in text else text)
    return Sample(path, "")
