"""What several processes that share a stage's work tell each other; alone, a process is told what it says itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed

from stages.common import launch
from stages.common.device import device

# The first may wait for another run, or write for long; a process that has ended is noticed at once all the same.
_LONGEST_WAIT = timedelta(days=7)


def join() -> None:
    """Meet the others for the first time. Those that train are met by Accelerate through the same group."""
    if launch.count() == 1 or distributed.is_initialized():
        return
    backend = "gloo"
    if device().type == "cuda":
        torch.cuda.set_device(device())
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_LONGEST_WAIT)


@contextmanager
def together() -> Iterator[None]:
    """Begin a block of work at once, and part when it has ended well."""
    meet()
    yield
    distributed.destroy_process_group()


def told(value: Any) -> Any:
    """What the first process has as `value`."""
    if launch.count() == 1:
        return value
    join()
    values = [value]
    distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def meet() -> None:
    """Go on when all have come here."""
    told(None)
    if launch.count() > 1:
        distributed.all_reduce(torch.zeros(1))


def put_together(parts: np.ndarray) -> None:
    """Fill `parts` (float32), in which each process has rows of its own and zeros elsewhere, with the others' rows.

    To the bit: whole numbers are added, of which all but one are zero.
    """
    if launch.count() > 1:
        join()
        distributed.all_reduce(torch.from_numpy(parts.view(np.int32)))
