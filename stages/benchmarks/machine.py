"""What the numbers were measured on: the machine, the threads, the versions, and its measured peak."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch

from stages.benchmarks.timing import now
from stages.common.device import device
from stages.model.load import compute_dtype

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "lm_eval", "pandas", "polars", "numpy")
# The tools that we compare with come from an extra, so that nobody has to install them to use the project.
EXTRA = "pip install -e '.[benchmark]'"


def describe() -> dict[str, Any]:
    """The machine, for a reader who wants to compare with another."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "processor": _processor(), "cores": len(allowed), "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total, "dtype": str(compute_dtype()).removeprefix("torch."),
        "accelerator": torch.cuda.get_device_name(device()) if torch.cuda.is_available() else None,
        "system": platform.platform(), "python": platform.python_version(),
    }


def versions() -> dict[str, str | None]:
    """Versions of what takes part; None for a package that is not installed."""
    found = {each.name.replace("-", "_"): each.version for each in distributions()}
    return {package: found.get(package) for package in PACKAGES}


def installed(module: str) -> bool:
    """Whether a baseline can be imported."""
    return find_spec(module) is not None


def peak(edge: int = 4096, seconds: float = 1.0) -> float:
    """Floating-point operations a second of a product of two square matrices, in the dtype that models run in here.

    Shares are taken of it. Products are repeated for `seconds`, at least three, after one that does not count.
    """
    left, right = (torch.randn(edge, edge, dtype=compute_dtype(), device=device()) for _ in range(2))
    left @ right
    start, products = now(), 0
    while products < 3 or now() - start < seconds:
        left @ right
        products += 1
    return products * 2 * edge**3 / (now() - start)


def heading(machine: Mapping[str, Any], versions: Mapping[str, str | None]) -> str:
    """The machine, the threads and the versions in two lines."""
    where = f"{machine['accelerator']}; " if machine["accelerator"] else ""
    packages = ", ".join(f"{name} {number or '(not installed)'}" for name, number in versions.items())
    return (
        f"{where}{machine['processor']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB; "
        f"{machine['threads']} threads, {machine['dtype']}\n{packages}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
