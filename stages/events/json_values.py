"""What a value of JSON says: its fields by dotted names, each as text, and how exact its numbers are.

Numbers are parsed as the shortest text of them, and all digits count: ids of twenty digits stay apart.
"""

import json
from collections.abc import Container, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from stages.events import people
from stages.events.rules import Rule

_LONGEST_NUMBER = 400  # digits


class Rounded(str):
    """A float's text that may have been several whole numbers."""


def _number(written: str) -> str:
    """The shortest text of a number; its digits are kept, however many."""
    value = _decimal(written)
    if value is None or abs(value.adjusted()) > _LONGEST_NUMBER:
        return written
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _float(written: str) -> str:
    """The text of a number that is written with a point or an exponent."""
    value = _decimal(written)
    return Rounded(_number(written)) if value is None or value.copy_abs() >= people.EXACT else _number(written)


def _decimal(written: str) -> Decimal | None:
    """None where the exponent has more than some eighteen digits."""
    try:
        return Decimal(written)
    except InvalidOperation:
        return None


DECODER = json.JSONDecoder(parse_int=_number, parse_float=_float, parse_constant=lambda _: None)
"""Numbers become text, NaN and infinity nothing."""


def parse_object(text: str) -> dict[str, Any] | None:
    """The object that a text holds, None where it holds none."""
    try:
        found = DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def field(found: Any, name: str) -> Any:
    """What a dotted name means in a value, None where there is nothing: `data.app`, or `apps.0` of a list.

    A key that is spelt with the dots goes first.
    """
    if isinstance(found, dict) and (value := found.get(name)) is not None:
        return value
    for part in name.split("."):
        if isinstance(found, dict):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def texts(
    values: Sequence[Any], names: Sequence[str], labels: Container[str], user: str | None = None
) -> list[str | None]:
    """Each value as text, and the problem: the Rule that one of them breaks, or null.

    Args:
        names: of the values.
        labels: names of those that must be text or a number.
        user: the name of the one that is an id.
    """
    found: list[str | None] = []
    problem = None
    for name, value in zip(names, values, strict=True):
        if isinstance(value, str) and not is_text(value):
            problem, value = Rule.TEXT.value, None
        elif isinstance(value, dict | list | bool):
            if name in labels:
                problem = problem or Rule.NESTED.value
            value = None if name in labels else json.dumps(value, sort_keys=True)
        elif isinstance(value, Rounded) and name == user:
            problem = problem or Rule.ROUNDED.value
        found.append(value)
    return [*found, problem]


def is_text(value: Any) -> bool:
    """Whether a value is text that UTF-8 can hold: no half of a character."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def names(found: dict[str, Any], before: str = "") -> Iterator[str]:
    """What may be named in an object: `data.app` for what is within an object."""
    for key, value in found.items():
        if isinstance(value, dict) and value:
            yield from names(value, f"{before}{key}.")
        else:
            yield f"{before}{key}"


def lists_of_objects(found: Any) -> list[str]:
    """Where objects lie in lists within a value, as `source.events` names it; the first few."""
    if not isinstance(found, dict):
        return []
    return [name for name in names(found) if is_list_of_objects(field(found, name))]


def is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(each, dict) for each in value)


def where_events_are(found: Any) -> str:
    """The hint in an error where a value has lists of objects; none else."""
    lists = lists_of_objects(found)
    return f"{lists[0]} is a list: set source.events to {lists[0]!r} if its objects are the events" if lists else ""
