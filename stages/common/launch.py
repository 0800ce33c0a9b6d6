"""Which of several processes this is, as `torchrun` and `accelerate launch` say it, and how one of them fails for all.

The first process speaks, and writes what a stage makes. The launcher ends the others when one fails.
"""

import os
import time

_SAID_BY_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
# In a failing process beside the first: long enough for the first to fail of the same, and the launcher to end all.
_SECONDS_BEFORE_FAILING = 20.0


def count() -> int:
    """Processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number() -> int:
    """This one's, from 0."""
    return int(os.environ.get("RANK", "0"))


def number_here() -> int:
    """This one's among those on this machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_first() -> bool:
    return number() == 0


def forget() -> None:
    """From now on this process works as if nobody had been started with it."""
    for name in _SAID_BY_LAUNCHERS:
        os.environ.pop(name, None)


def after_the_cause() -> None:
    """Wait where this process may fail only because another did: the launcher ends it meanwhile, without a word.

    What all processes fail of the first says at once, and none of the others.
    """
    if count() > 1:
        time.sleep(_SECONDS_BEFORE_FAILING + 0.5 * number())
