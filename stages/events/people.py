"""Who an id means: one person is written in several ways, and some ways of writing no longer say who it is."""

import re

_WHOLE = re.compile(r"-?(\d+)\.0", re.ASCII)
_EXPONENT = re.compile(r"-?\d(\.\d+)?[eE]\+\d+", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)

EXACT = 2**53
"""Below this a float of 64 bits is the whole number that was stored; from here on two ids may be one float."""

EXACT_32, EXACT_16 = 2**24, 2**11
"""The same of floats of 32 and of 16 bits."""

_DIGITS = len(str(EXACT))


def canonical(written: str) -> str:
    """The id that is hashed, of its text in the log (without white space around it).

    Programs write a column of whole numbers with gaps as floats, so `101.0` is `101`. A UUID is the same in capitals
    (RFC 9562, section 4), as some systems write it; any other text is somebody else in another case.
    """
    if _WHOLE.fullmatch(written):
        return written[:-2]
    return written.lower() if _UUID.fullmatch(written) else written


def is_rounded(written: str) -> bool:
    """Whether the text is a float's that may have been several ids: `9007199254740992.0`, a spreadsheet's `1.5E+15`.

    No id in hexadecimal digits has a plus sign.
    """
    if whole := _WHOLE.fullmatch(written):
        digits = whole[1].lstrip("0")
        return len(digits) > _DIGITS or (len(digits) == _DIGITS and int(digits) >= EXACT)
    return _EXPONENT.fullmatch(written) is not None
