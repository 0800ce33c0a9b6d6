"""Lines of JSON: what one may hold, and what is wrong with it where it may not."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from stages.common.errors import UserError
from stages.events import people
from stages.serving.times import shown

LONGEST_LINE = 65_536  # bytes; a prompt holds far less
_KEYS = ("user", "time", "place", "behavior")
_NEEDED = 'an object with "time" is needed, such as {"time": "2024-05-06T16:20", "place": "home"}'


class Line(NamedTuple):
    """An event, or a question where `behavior` is None. `user` is a hash, so that nothing can say whose it was."""

    user: bytes | None
    time: str
    place: Any
    behavior: Any


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The file's lines as they come; of one that is too long, a beginning that is too long as well."""
    while line := file.readline(LONGEST_LINE + 1):
        yield line
        while len(line) > LONGEST_LINE and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE + 1)
            if len(line) <= LONGEST_LINE:
                break


def parse(line: bytes | str) -> Line:
    """What a line holds.

    Raises:
        UserError: what is wrong with it. No message has what stands under `user`.
    """
    found = _object(line)
    if unknown := [key for key in found if key not in _KEYS]:
        raise UserError(f"key {shown(unknown[0])}: not one of {', '.join(_KEYS)}")
    if not isinstance(found.get("time"), str):
        raise UserError(_NEEDED)
    return Line(_user(found.get("user")), found["time"], found.get("place"), found.get("behavior"))


def _object(line: bytes | str) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise UserError(f"longer than {LONGEST_LINE:,} bytes: no event is")
    if not line.strip():
        raise UserError("empty; a line holds one JSON object")
    try:
        found = _DECODER.decode(line if isinstance(line, str) else line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"byte 0x{error.object[error.start]:02x} at {error.start + 1} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"no JSON object that can be read: {error.msg} (character {error.colno})") from None
    except RecursionError:
        raise UserError("no JSON object that can be read: nested too deep") from None
    except UserError:
        raise
    except ValueError:
        raise UserError("no JSON object that can be read: a number of more than "
                        f"{sys.get_int_max_str_digits():,} digits") from None
    if not isinstance(found, dict):
        raise UserError(_NEEDED)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        again = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise UserError(f"key {shown(again)}: stands twice")
    return found


def _no_number(text: str) -> None:
    raise UserError(f"no JSON object that can be read: {text} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)


def _user(user: Any) -> bytes | None:
    """The same for `7`, `"7"` and `7.0`, and for a UUID in capitals, as in a log."""
    if user is None:
        return None
    if isinstance(user, float) and user.is_integer() and abs(user) < people.EXACT:
        user = int(user)
    if isinstance(user, bool) or not isinstance(user, str | int):
        raise UserError("user: text or a whole number is needed")
    if not (text := str(user).strip()):
        raise UserError("user: empty; leave the key out where all lines are one person's")
    if people.is_rounded(text):
        raise UserError("user: a number that has lost its last digits; a whole number or other text is needed")
    return hashlib.blake2b(people.canonical(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()
