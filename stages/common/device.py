"""Where models are read and trained."""

import torch

from stages.common import launch
from stages.common.errors import UserError


def device() -> torch.device:
    """This process's accelerator, else the CPU.

    Raises:
        UserError: more processes were started on this machine than it has accelerators.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if (place := launch.number_here()) >= torch.cuda.device_count():
        raise UserError(f"LOCAL_RANK: {place}: this machine shows {torch.cuda.device_count()} GPUs; start one process "
                        "for each, or hide them all (CUDA_VISIBLE_DEVICES='')")
    return torch.device("cuda", place)
