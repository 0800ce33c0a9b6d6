"""Raw log to windows: the commands `stages.ingest` and `stages.windowing` against the same work in pandas.

Each run is a process of its own, timed from its start to its end, imports included. Ours and the baselines take turns.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from stages.benchmarks.data import ROOT, run_stages, timed, with_source
from stages.benchmarks.machine import installed
from stages.benchmarks.timing import Comparison, Row
from stages.common.console import track
from stages.events.simulator import log as simulator
from stages.events.simulator.days import PLACES

KINDS = ("csv", "parquet")
VARIANTS = {"usual": "pandas, user by user", "vectorised": "pandas, vectorised"}

_DAYS, _EVENTS_PER_DAY = 45, 12.0
_TIMES_FASTER, _TIMES_LARGER = 15, 11  # targets
_LIMITS = {"seconds": ("s", 180), "peak_gigabytes": ("GB", 8)}  # units, and targets for 50 million rows


def compare(
    rows: Sequence[int], rounds: int, folder: Path, kinds: Sequence[str] = KINDS, pandas_up_to: int = 5_000_000
) -> Comparison:
    """Time ours and both ways of pandas in turn; `runs` of the details holds every run, with their medians.

    Args:
        rows: of the logs.
        rounds: of every run.
        folder: for the logs and what is made of them: about 90 bytes a row of the largest log, cleared on the way.
        pandas_up_to: pandas reads no larger logs: it needs about 400 bytes of memory a row.
    """
    runs: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    variants = VARIANTS if installed("pandas") else {}
    sides = {size: ["ours", *(variants if size <= pandas_up_to else ())] for size in sorted(rows)}
    with track("ingest against pandas, runs", rounds * len(kinds) * sum(map(len, sides.values()))) as bar:
        for kind in kinds:
            for size, names in sides.items():
                log = folder / f"log.{kind}"
                write_log(log, size)
                params = write_params(folder / "params.json", log)
                found: dict[str, list[tuple[float, float]]] = {side: [] for side in names}
                for side in names * rounds:
                    found[side].append(run(side, params, log, folder))
                    bar.advance(1, f"{side}, {size:,} rows of {kind}: {found[side][-1][0]:.1f} s")
                runs[kind, size] = {side: _summary(several, size) for side, several in found.items()}
                log.unlink()
    return Comparison([row for kind in kinds for row in _rows(runs, kind, sorted(rows))], {"runs": {
        f"{kind}, {size:,} rows, {side}": summary
        for (kind, size), of_sides in runs.items() for side, summary in of_sides.items()
    }})


def _summary(found: list[tuple[float, float]], size: int) -> dict[str, Any]:
    seconds, gigabytes = (list(values) for values in zip(*found, strict=True))
    values = {"seconds": seconds, "rows_per_second": [size / each for each in seconds], "peak_gigabytes": gigabytes}
    return values | {"median": {name: median(several) for name, several in values.items()}}


def _rows(runs: dict[tuple[str, int], Any], kind: str, sizes: Sequence[int]) -> Iterator[Row]:
    """Rows of the benchmark's table."""
    for size in sizes:
        for side, name in VARIANTS.items():
            if baseline := runs[kind, size].get(side):
                yield Row(f"ingest + windowing, {kind}, {size:,} rows", name, "rows/s",
                          runs[kind, size]["ours"]["rows_per_second"], baseline["rows_per_second"],
                          target=_TIMES_FASTER)
    least, most = sizes[0], sizes[-1]
    work, ours = f"ingest + windowing, {kind}, {most:,} rows", runs[kind, most]["ours"]
    for name, (unit, limit) in _LIMITS.items():
        yield Row(work, "", unit, ours[name], rule="at_most", target=limit if most == 50_000_000 else None)
    if most > least:
        ratio = ours["median"]["seconds"] / runs[kind, least]["ours"]["median"]["seconds"]
        yield Row(f"{work}, over {least:,}", "", "times the seconds", [ratio], rule="at_most",
                  target=_TIMES_LARGER if most == 10 * least else None)


def run(side: str, params: Path, log: Path, folder: Path) -> tuple[float, float]:
    """Seconds and peak gigabytes of one run of `ours` or a variant of pandas; its tables stay in `folder` / `side`."""
    out = folder / side
    out.mkdir(exist_ok=True)
    if side == "ours":
        return run_stages(params, out)
    return timed("stages.benchmarks.ingest_pandas", side, params, log, out)


def write_params(path: Path, log: Path) -> Path:
    """The repository's params for a log of format `table`."""
    return with_source(ROOT / "params.yaml", path, format="table", path=str(log), taxonomy="none")


def write_log(path: Path, rows: int) -> None:
    """A raw log of simulated people, as CSV or Parquet by its name, in the order of time, as logs are written.

    One row in a thousand repeats the row before, one in two thousand each has no user and an empty place, and one in
    five thousand each has no behaviour and one that is too long.
    """
    log = _simulated(rows).sort("time", maintain_order=True).head(rows).lazy()
    row = pl.int_range(pl.len())
    log = log.select(pl.when(row % 1000 == 1).then(pl.all().shift(1)).otherwise(pl.all()))
    place, behavior = pl.col("place").cast(pl.String), pl.col("behavior").cast(pl.String)
    texts = log.select(
        user=pl.when(row % 2000 == 7).then(pl.lit("")).otherwise(pl.format("user-{}", "user")), time="time",
        place=pl.when(row % 2000 == 11).then(pl.lit("")).otherwise(place),
        behavior=pl.when(row % 5000 == 13).then(pl.lit("")).when(row % 5000 == 17).then(pl.lit("x" * 101))
        .otherwise(behavior),
    )
    if path.suffix == ".parquet":
        texts.sink_parquet(path)
    else:
        texts.with_columns(pl.col("time").dt.to_string("%Y-%m-%d %H:%M:%S")).sink_csv(path, quote_style="never")


def _simulated(rows: int) -> pl.DataFrame:
    """At least `rows` events, of users with short names, in few bytes a row."""
    parts: list[pl.DataFrame] = []
    users = made = 0
    small = {"user": pl.UInt32, "place": pl.Enum(PLACES), "behavior": pl.Enum(simulator.BEHAVIORS)}
    for events, _ in simulator.blocks(0, rows // 400 + 50, _DAYS, _EVENTS_PER_DAY):
        parts.append(events.with_columns(user=users + pl.col("user").rle_id()).cast(small))
        users, made = int(parts[-1]["user"][-1]) + 1, made + events.height
        if made >= rows:
            break
    return pl.concat(parts)
