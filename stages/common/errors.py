"""A user's mistake becomes one clear message and an exit status, never a traceback."""

import errno
import sys
from collections.abc import Callable
from typing import NoReturn

from rich.text import Text

from stages.common import launch
from stages.common.console import console


_USERS_FAULTS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# what Polars, safetensors (both say what Rust says) and torch.save make of it: none of them keeps the number
_FULL_IN_WORDS = tuple(f"(os error {number})" for number in _FULL) + ("unexpected pos", "file write failed")


class UserError(ValueError):
    """A mistake that the user can mend.

    The message names the file, row or key, the value found, and what would be right.
    """


def is_full_disk(error: Exception) -> bool:
    """Whether something could not be written for want of space, by whatever library."""
    return getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_IN_WORDS)


def full_disk(place: object) -> str:
    """What is said when there is no space at a place."""
    return f"{place}: no space left on the disk; free some and run the same command again"


def run(main: Callable[[], None]) -> NoReturn:
    """Call a stage's `main` and exit: 0, 1 for a user's mistake or a full disk, 130 for Ctrl-C.

    Anything else is a defect of ours and keeps its traceback. Of several processes one says what is wrong, for all.
    """
    try:
        main()
    except SystemExit as ended:  # of argparse
        if ended.code and not launch.is_first():
            launch.after_the_cause()
        raise
    except UserError as error:
        _fail(str(error))
    except Exception as error:
        if is_full_disk(error):
            _fail(full_disk(getattr(error, "filename", None) or "disk"))
        if isinstance(error, _USERS_FAULTS) and error.filename:
            _fail(f"{error.filename}: {error.strerror}")
        launch.after_the_cause()  # may be that another process has ended
        raise
    except KeyboardInterrupt:
        if not launch.is_first():
            sys.exit(130)
        _fail("stopped; run the same command again to go on", status=130)
    sys.exit(0)


def _fail(message: str, status: int = 1) -> NoReturn:
    if not launch.is_first():
        launch.after_the_cause()
        console.quiet, message = False, f"process {launch.number()} of {launch.count()}: {message}"
    console.print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
    sys.exit(status)
