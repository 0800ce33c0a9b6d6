"""Sections of `params.yaml`: what one is, the types of their values, and how they are read.

Each section is defined in the room that uses it (its `settings.py`, or the stage's script) and refuses unknown keys and
values out of range. Meaning, unit, range and origin of every key stand as comments in `params.yaml`.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.common.errors import UserError

PARAMS = Path("params.yaml")

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Rate = Annotated[float, Field(gt=0, le=1)]


def validated_or(least: float, most: float) -> PlainValidator:
    """Refuses what is neither `validation`, for a choice on validation windows, nor a number in a range."""

    def check(value: Any) -> float | str:
        if value == "validation":
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            return float(value)
        raise ValueError(f"expected `validation`, or a number from {least:g} to {most:g}")

    return PlainValidator(check)


def key_of(table: Callable[[], Iterable[str]]) -> AfterValidator:
    """Refuses a string that is no key of a table, which is asked for when a value is checked."""

    def check(value: str) -> str:
        known = list(table())
        if value not in known:
            raise ValueError(f"Input should be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")
        return value

    return AfterValidator(check)


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


Sections = TypeVar("Sections", bound=Section)


def keys(kind: type[Section]) -> list[str]:
    """The keys of a section, as they stand in the file."""
    return [field.alias or name for name, field in kind.model_fields.items()]


def dotted_keys(kind: type[Section], above: str = "") -> set[str]:
    """Every key below a section, such as `sft.epsilon`."""
    found = set()
    for name, value in kind.model_fields.items():
        key = above + (value.alias or name)
        inner: Any = value.annotation
        nested = isinstance(inner, type) and issubclass(inner, Section)
        found |= dotted_keys(inner, f"{key}.") if nested else {key}
    return found


def read_params(kind: type[Sections], path: Path = PARAMS) -> Sections:
    """The sections that `kind` has, and no others, of a file of params.

    Raises:
        UserError: the file is absent or no YAML; a key is unknown or missing; a value is out of its range. All faults
            are named at once, each with its key, its value and what would be right.
    """
    content = read_sections(path)
    return checked({key: content[key] for key in keys(kind) if key in content}, kind, path)


def read_sections(path: Path) -> dict[str, Any]:
    """All that stands in a file of params, unchecked.

    Raises:
        UserError: the file is absent, no YAML, or has no sections.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections such as `windowing:`, found {type(content).__name__}")
    return content


def read_yaml(path: Path) -> Any:
    """What stands in a YAML 1.2 file, in which `5e-5`, and the `2e-05` that `dvc exp run -S` writes, are numbers.

    Raises:
        UserError: the file is absent or no YAML.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the repository's root") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


def parse_yaml(text: str) -> Any:
    """The content of a text of YAML 1.2."""
    return YAML(typ="safe", pure=True).load(text)


def checked(content: Any, kind: type[Sections], path: Path | str, *above: str) -> Sections:
    """`content`, which stands under the keys `above` in the file `path`, as a section.

    Raises:
        UserError: a key is unknown, missing or out of its range; all faults are named.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = [_explain(fault, kind, above) for fault in error.errors()]
        raise UserError(f"{path}: " + "\n".join(faults)) from None


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?` where a known name is close to `name`, else nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _explain(fault: Any, kind: type[Section], above: tuple[str, ...]) -> str:
    key = ".".join(map(str, (*above, *fault["loc"])))
    if fault["type"] == "extra_forbidden":
        return f"{key}: no such key" + suggestion(fault["loc"][-1], _known(kind, fault["loc"][:-1]))
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if isinstance(fault["input"], dict) else f"{key}: {fault['input']!r}: {message}"


def _known(kind: Any, location: tuple) -> list[str]:
    """The keys at a location below a section; none where it is below a list or a mapping of free keys."""
    for part in location:
        fields: Mapping[str, Any] = getattr(kind, "model_fields", {})
        kind = next((f.annotation for n, f in fields.items() if part in (n, f.alias)), None) if fields else None
    return keys(kind) if hasattr(kind, "model_fields") else []
