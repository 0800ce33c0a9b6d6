"""Keys of params.yaml, printed as a block and written into the file, whose comments and other lines stay."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from stages.common.errors import UserError
from stages.common.files import atomic_file
from stages.common.params import parse_yaml


def block(settings: Mapping[str, Any], reasons: Mapping[str, str]) -> str:
    """The lines of section `source`, each with the reason for it; keys of `columns` below that."""
    plain = {key: value for key, value in settings.items() if "." not in key}
    columns = {key.partition(".")[2]: value for key, value in settings.items() if "." in key}
    lines = ["source:", *(_line(key, value, reasons.get(key), "  ") for key, value in plain.items())]
    if columns:
        lines += ["  columns:", *(_line(key, value, reasons.get(f"columns.{key}"), "    ")
                                  for key, value in columns.items())]
    return "\n".join(lines)


def _line(key: str, value: Any, reason: str | None, indent: str) -> str:
    return f"{indent}{key}: {scalar(value)}" + (f"  # {reason}" if reason else "")


def scalar(value: Any) -> str:
    """A value as YAML, on one line."""
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.default_flow_style = True
    yaml.dump({"key": value}, text)
    return text.getvalue().strip()[len("{key: "):-1]


def write(path: Path, changes: Mapping[str, Any]) -> None:
    """Set dotted keys of a file of params.

    Raises:
        UserError: a key is not in the file.
    """
    yaml = YAML()
    yaml.width = 4096
    content = yaml.load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            section = section.get(parent, {})
        if last not in section:
            raise UserError(f"{path}: no key {key}; is it this repository's params.yaml?")
        if section[last] != value or type(section[last]) is not type(value):
            section[last] = value
    with atomic_file(path) as part, open(part, "w", encoding="utf-8") as file:
        yaml.dump(content, file)


def answers(given: list[str]) -> dict[str, Any]:
    """Values of keys of `source`, of words such as `time_zone=Europe/Berlin` or `source.columns.user=id`.

    Raises:
        UserError: a word is none.
    """
    found = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise UserError(f"-S {word}: expected KEY=VALUE, such as -S time_zone=Europe/Berlin")
        found[key.strip().removeprefix("source.")] = _value(value)
    return found


def _value(text: str) -> Any:
    """A truth, a whole number, a list in brackets or a quoted text as in params.yaml; all else as it is written."""
    try:
        parsed = parse_yaml(text)
    except (YAMLError, UserError):  # %m/%d is no YAML, and a format of times
        return text
    if isinstance(parsed, list) and not text.lstrip().startswith("["):
        return text
    quoted = isinstance(parsed, str) and text.strip()[:1] in ("'", '"')
    return parsed if quoted or isinstance(parsed, bool | int | list) else text
