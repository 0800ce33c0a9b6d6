"""One run at a time at what several runs share: a folder of checkpoints, a model on its way into the cache.

The lock is the operating system's: it goes with the process that holds it, killed or not. On a network folder it holds
between machines where the folder's server passes locks on; where a folder knows none, runs there are not kept apart,
which is said.
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from stages.common.console import console, duration

_SECONDS_BETWEEN_TRIES = 0.5
_SECONDS_BETWEEN_LINES = 60.0
_NO_LOCKS_HERE = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def alone(path: Path, doing: str, ask: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock at `path` while the block runs; wait for it, and say so, while another run holds it.

    Args:
        path: of the lock's file, which lasts no longer than the lock.
        doing: what a run that holds it does ("trains on the same inputs").
        ask: called again and again while this run waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        _wait(lock, path, doing, ask)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS_HERE:
            raise
        console.print(f"note: {path.parent} is on a disk without locks: start no other run that {doing}")
        yield
        return
    with suppress(OSError):  # for whoever waits
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open
            path.unlink(missing_ok=True)
        lock.release()


def _wait(lock: FileLock, path: Path, doing: str, ask: Callable[[], None]) -> None:
    start, line = time.monotonic(), 0
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            ask()
            waited = time.monotonic() - start
            if not line:
                console.print(f"waiting for another run that {doing}{_holder(path)}", soft_wrap=True)
            elif waited >= line * _SECONDS_BETWEEN_LINES:
                console.print(f"still waiting, after {duration(waited)}")
            line = 1 + int(waited / _SECONDS_BETWEEN_LINES)
            time.sleep(_SECONDS_BETWEEN_TRIES)
        else:
            if line:
                console.print(f"it has ended, after {duration(time.monotonic() - start)}; going on")
            return


def _holder(path: Path) -> str:
    try:
        name = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        name = ""
    return f" ({name})" if name else ""
