"""What tests of logs share: params with changes, and small logs written to files."""

import functools
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import polars as pl

from stages.params import Params, read_all
from stages.events.simulator import log as simulator

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"

HEADER = "user,time,place,behavior"
ROWS = [
    "u1,2024-03-01 09:00:00,work,Meeting online",
    "u1,2024-03-01 12:30:00,café,Drinking coffee",
    "u2,2024-03-01 08:00:00,,Taking the subway",
    "u3,2024-03-02 22:15:30,home,Gaming",
]


@functools.cache
def _content() -> dict[str, Any]:
    return read_all(ROOT / "params.yaml").model_dump(by_alias=True)


def params_with(**changes: Any) -> Params:
    """The repository's params with changes, such as `source__time_zone="UTC"` or `seed=1`."""
    content = deepcopy(_content())
    for key, value in changes.items():
        section = content
        *parents, last = key.split("__")
        for parent in parents:
            section = section[parent]
        section[last] = value
    return Params.model_validate(content)


def table_params(path: Path, **changes: Any) -> Params:
    """Params for a log of format `table`, any share refused."""
    defaults = {"source__format": "table", "source__path": str(path), "ingest__max_refused": 1.0}
    return params_with(**(defaults | changes))


def write_log(path: Path, rows: list[str], header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_params(path: Path, params: Params) -> Path:
    path.write_text(json.dumps(params.model_dump(by_alias=True)), encoding="utf-8")  # JSON is YAML
    return path


def simulated_log(seed: int, users: int, days: int, events_per_day: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The whole tables `events` and `oracle` of a small simulated log."""
    events, oracle = zip(*simulator.blocks(seed, users, days, events_per_day), strict=True)
    return pl.concat(events, rechunk=False), pl.concat(oracle, rechunk=False)
