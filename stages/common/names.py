"""What a name (a behaviour, a place) may be: one line of printable text, and no other name in another case."""

import re
from collections.abc import Iterable

from stages.common.errors import UserError

# as a pattern that Polars and Python both know; halves of surrogate pairs occur in Python's strings alone
CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
_UNPRINTABLE = re.compile(CONTROL.removesuffix("]") + r"\ud800-\udfff]")


def check_printable(name: str, kind: str) -> None:
    """Refuse a name that is no single line of printable text.

    Raises:
        UserError: begins with `kind`, and names the name and the character.
    """
    if bad := _UNPRINTABLE.search(name):
        raise UserError(f"{kind} {name!r}: has the control character {bad[0]!r}; names are one line of printable text")


def case_twins(names: Iterable[str]) -> tuple[int, int] | None:
    """Places of the first two names that differ in case only, None where there are none; repetitions are no twins."""
    seen: dict[str, tuple[int, str]] = {}
    for place, name in enumerate(names):
        first, other = seen.setdefault(name.casefold(), (place, name))
        if other != name:
            return first, place
    return None
