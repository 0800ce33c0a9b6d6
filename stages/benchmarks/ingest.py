"""Raw log to windows: the commands `stages.ingest` and `stages.windowing` against the same work in pandas.

Each run is a process of its own, timed from its start to its end, imports included. Ours and theirs take turns.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from stages.common.console import track
from stages.common.parallel import side_by_side
from stages.params import read_all
from stages.events.simulator import log as simulator
from stages.events.simulator.days import PLACES, START

ROOT = Path(__file__).parents[2]
KINDS = ("csv", "parquet")
VARIANTS = {"usual": "pandas, user by user", "vectorised": "pandas, vectorised"}

_DAYS, _EVENTS_PER_DAY = 45, 12.0
_TIMES_FASTER, _SECONDS, _GIGABYTES, _TIMES_LARGER = 15, 180, 8, 11  # the targets; the middle two for 50 million rows


def compare(
    rows: Sequence[int], rounds: int, folder: Path, kinds: Sequence[str] = KINDS, theirs_up_to: int = 5_000_000
) -> dict[str, Any]:
    """Time ours and both ways of pandas in turn.

    Args:
        rows: of the logs.
        rounds: of every run.
        folder: for the logs and what is made of them: about 90 bytes a row of the largest log, cleared on the way.
        theirs_up_to: pandas reads no larger logs: it needs about 400 bytes of memory a row.

    Returns:
        `rows`: lines for the table of the benchmark; `runs`: seconds, rows a second and peak gigabytes of every run,
        by kind, rows and side, with their medians.
    """
    sides = ["ours", *(VARIANTS if _has_pandas() else ())]
    work = [(kind, size, side) for kind in kinds for size in sorted(rows) for side in sides
            if side == "ours" or size <= theirs_up_to]
    runs: dict[str, dict[str, Any]] = {}
    with track("ingest against pandas, runs", rounds * len(work)) as bar:
        for kind in kinds:
            for size in sorted(rows):
                log = folder / f"log.{kind}"
                write_log(log, size)
                params = write_params(folder / "params.json", log)
                taken = {side: [] for k, s, side in work if (k, s) == (kind, size)}
                for _ in range(rounds):
                    for side, found in taken.items():
                        found.append(run(side, params, log, folder))
                        bar.advance(1, f"{side}, {size:,} rows of {kind}: {found[-1][0]:.1f} s")
                runs |= {f"{kind}, {size:,} rows, {side}": _summary(found, size) for side, found in taken.items()}
                log.unlink()
    lines = [line for kind in kinds for line in _lines(runs, kind, sorted(rows))]
    return {"rows": lines, "runs": runs}


def _has_pandas() -> bool:
    try:
        import pandas  # noqa: F401
    except ImportError:
        return False
    return True


def _summary(found: list[tuple[float, float]], size: int) -> dict[str, Any]:
    seconds, gigabytes = (list(values) for values in zip(*found, strict=True))
    return {
        "seconds": seconds, "rows_per_second": [size / each for each in seconds], "peak_gigabytes": gigabytes,
        "median": {"seconds": median(seconds), "rows_per_second": size / median(seconds),
                   "peak_gigabytes": median(gigabytes)},
    }


def _lines(runs: dict[str, Any], kind: str, rows: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Lines of the benchmark's table."""
    ours = {size: runs[f"{kind}, {size:,} rows, ours"] for size in rows}
    for size in rows:
        for side, name in VARIANTS.items():
            if theirs := runs.get(f"{kind}, {size:,} rows, {side}"):
                yield {"work": f"ingest + windowing, {kind}, {size:,} rows", "against": name, "unit": "rows/s",
                       "ours": ours[size]["rows_per_second"], "theirs": theirs["rows_per_second"], "rule": "rates",
                       "target": _TIMES_FASTER}
    most, work = rows[-1], f"ingest + windowing, {kind}, {rows[-1]:,} rows"
    limits = (_SECONDS, _GIGABYTES) if most == 50_000_000 else (None, None)
    for name, unit, limit in zip(("seconds", "peak_gigabytes"), ("s", "GB"), limits, strict=True):
        yield {"work": work, "against": "", "unit": unit, "ours": ours[most][name], "rule": "at_most", "target": limit}
    if len(rows) > 1:
        ratio = ours[most]["median"]["seconds"] / ours[rows[0]]["median"]["seconds"]
        tenfold = most == 10 * rows[0]
        yield {"work": f"{work}, over {rows[0]:,}", "against": "", "unit": "times the seconds", "ours": [ratio],
               "rule": "at_most", "target": _TIMES_LARGER if tenfold else None}


def run(side: str, params: Path, log: Path, folder: Path) -> tuple[float, float]:
    """Seconds and peak gigabytes of one run of `ours` or a variant of pandas; its tables stay in `folder` / `side`.

    Raises:
        RuntimeError: with what the command said, where it fails.
    """
    out = folder / side
    out.mkdir(exist_ok=True)
    if side != "ours":
        return _timed("ingest_pandas", "-m", "stages.benchmarks.ingest_pandas", side, params, log, out)
    tables = {name: out / f"{name}.parquet" for name in ("events", "quarantine", "oracle", "windows", "vocabulary")}
    first = _timed("ingest", "-m", "stages.ingest", "--params", params, "--taxonomies", out, "--out", tables["events"],
                   "--quarantine", tables["quarantine"], "--oracle", tables["oracle"], "--metrics", out / "ingest.json")
    second = _timed("windowing", "-m", "stages.windowing", "--params", params, "--events", tables["events"], "--out",
                    tables["windows"], "--vocabulary", tables["vocabulary"], "--metrics", out / "windowing.json",
                    "--plot", out / "frequencies.csv")
    return first[0] + second[0], max(first[1], second[1])


def _timed(name: str, *arguments: Any) -> tuple[float, float]:
    """Wall-clock seconds and peak gigabytes of a Python process."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, text=True)
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if child.returncode:
        raise RuntimeError(f"{name}: {said[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return seconds, used.ru_maxrss * unit / 1e9


def write_params(path: Path, log: Path) -> Path:
    """The repository's params for a log of format `table`."""
    content = read_all(ROOT / "params.yaml").model_dump(by_alias=True)
    content["source"] |= {"format": "table", "path": str(log), "taxonomy": "none"}
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path


def write_log(path: Path, rows: int) -> None:
    """A raw log of simulated people, as CSV or Parquet by its name, in the order of time, as logs are written.

    One row in a thousand repeats the row before, one in two thousand each has no user and an empty place, and one in
    five thousand each has no behaviour and one that is too long.
    """
    log = _simulated(rows).sort("time", maintain_order=True).head(rows).lazy()
    row = pl.int_range(pl.len())
    log = log.select(pl.when(row % 1000 == 1).then(pl.all().shift(1)).otherwise(pl.all()))
    texts = log.select(
        user=pl.when(row % 2000 == 7).then(pl.lit("")).otherwise(pl.format("user-{}", "user")),
        time=pl.lit(START).cast(pl.Datetime("us")) + pl.duration(seconds="time"),
        place=pl.when(row % 2000 == 11).then(pl.lit("")).otherwise(_named("place", PLACES)),
        behavior=pl.when(row % 5000 == 13).then(pl.lit("")).when(row % 5000 == 17).then(pl.lit("x" * 101))
        .otherwise(_named("behavior", simulator.BEHAVIORS)),
    )
    if path.suffix == ".parquet":
        texts.sink_parquet(path)
    else:
        texts.with_columns(pl.col("time").dt.to_string("%Y-%m-%d %H:%M:%S")).sink_csv(path, quote_style="never")


def _named(column: str, names: Sequence[str]) -> pl.Expr:
    return pl.col(column).replace_strict(dict(enumerate(names)), return_dtype=pl.String)


def _simulated(rows: int) -> pl.DataFrame:
    """At least `rows` events: numbers of users, seconds, numbers of places and behaviours; in few bytes a row."""
    users, parts, made = min(2048, int(rows / (_DAYS * _EVENTS_PER_DAY)) + 10), [], 0
    jobs: Iterator[Callable[[], pl.DataFrame]] = (
        functools.partial(_people, np.arange(first, first + users)) for first in range(0, 2**31, users))
    for part in side_by_side(jobs):
        parts.append(part)
        made += part.height
        if made >= rows:
            return pl.concat(parts)
    raise AssertionError("people without number have events without number")


def _people(numbers: np.ndarray) -> pl.DataFrame:
    plan, behavior, _ = simulator.simulate(0, numbers, _DAYS, _EVENTS_PER_DAY)
    return pl.DataFrame({"user": numbers[plan.user].astype(np.uint32), "time": plan.seconds.astype(np.int32),
                         "place": plan.place.astype(np.uint8), "behavior": behavior.astype(np.uint8)})
