"""A user's mistake becomes one clear message and an exit status, never a traceback."""

import errno
import sys
from collections.abc import Callable
from typing import NoReturn

from rich.text import Text

from stages.common.console import console


_USERS_FAULTS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class UserError(ValueError):
    """A mistake that the user can mend.

    The message names the file, row or key, the value found, and what would be right.
    """


def run(main: Callable[[], None]) -> NoReturn:
    """Call a stage's `main` and exit: 0, 1 for a user's mistake or a full disk, 130 for Ctrl-C.

    Anything else is a defect of ours and keeps its traceback.
    """
    try:
        main()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail(f"{error.filename or 'disk'}: no space left on the disk; free some and run the same command again")
        if error.filename and isinstance(error, _USERS_FAULTS):
            _fail(f"{error.filename}: {error.strerror}")
        raise
    except KeyboardInterrupt:
        _fail("stopped; run the same command again to go on", status=130)
    sys.exit(0)


def _fail(message: str, status: int = 1) -> NoReturn:
    console.print(Text.assemble(("error:", "bold red"), " ", message), soft_wrap=True)
    sys.exit(status)
