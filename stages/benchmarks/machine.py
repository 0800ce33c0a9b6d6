"""What the numbers were measured on: the machine, the threads, the versions, and its measured peak."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from stages.benchmarks.timing import now
from stages.common.device import device
from stages.model.load import compute_dtype

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "lm_eval", "pandas", "polars", "numpy")
# The edge of the matrices whose product is the peak that shares are taken of.
EDGE = 4096
_SECONDS_OF_PEAK = 1.0


def describe() -> dict[str, Any]:
    """The machine, for a reader who wants to compare with another."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "processor": _processor(), "cores": len(allowed), "threads": torch.get_num_threads(),
        "memory_bytes": _memory(), "accelerator": _accelerator(), "dtype": str(compute_dtype()).removeprefix("torch."),
        "system": platform.platform(), "python": platform.python_version(),
    }


def versions() -> dict[str, str | None]:
    """Versions of what takes part; None for a package that is not installed."""
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def peak(edge: int = EDGE, seconds: float = _SECONDS_OF_PEAK) -> float:
    """Floating-point operations a second of a product of two square matrices, in the dtype that models run in here.

    Products are repeated until `seconds` are over, at least three, after one that does not count.
    """
    left, right = (torch.randn(edge, edge, dtype=compute_dtype(), device=device()) for _ in range(2))
    left @ right
    start, products = now(), 0
    while products < 3 or now() - start < seconds:
        left @ right
        products += 1
    return products * 2 * edge**3 / (now() - start)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None


def _accelerator() -> str | None:
    return torch.cuda.get_device_name(device()) if torch.cuda.is_available() else None
