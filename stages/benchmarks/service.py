"""A service's day: many people's lines, some bad, through `python -m stages.predict`, one after another.

    python -m stages.benchmarks.service --lines 1000000 --people 10000 --bad 0.05 -- --order-only --top 1

First each person's last L events come, so that all have a whole history from the first question on; then lines of
people drawn by chance, the worst case for what is kept of each. Every answer is waited for. Printed are the rate, the
program's peak of memory, and the 99th percentile of the time from line to answer in the first and the last tenth of
the answers; `same` is their ratio. What stands behind `--` goes to `predict`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

import numpy as np

from stages.common import tables
from stages.common.errors import UserError, run
from stages.params import read_all

_START = datetime(2024, 3, 4)
_PLACES = ("home", "workplace", "on the way", "shopping center", "restaurant")
# one of each kind: no JSON, no UTF-8, too deep, no number, a time of yesterday, a key twice, a wrong name, nothing
_BAD = (b"{", b'{"time": "caf\xe9"}', b"[" * 2000, b'{"time": NaN}', b'{"user": 1, "time": "1899-01-01T00:00"}',
        b'{"time": "2024-03-04T08:00", "time": "2024-03-04T09:00"}', b'{"when": "2024-03-04T08:00"}', b"")


def traffic(
    lines: int, people: int, bad: float, ask: int, history: int, behaviors: list[str], seed: int
) -> Iterator[tuple[bytes, bool]]:
    """Lines, and whether each has an answer; of those that are not bad one in `ask` is a question."""
    rng, minutes = np.random.default_rng(seed), np.arange(lines) * 60 // people * 10
    first = min(lines, history * people)
    who = np.concatenate([np.arange(first) % people, rng.integers(0, people, lines - first)])
    is_bad, asks = rng.random(lines) < bad, rng.integers(0, ask, lines) == 0
    asks[:first] = False
    place, done = rng.integers(0, len(_PLACES), lines), rng.integers(0, len(behaviors), lines)
    for number in range(lines):
        if is_bad[number]:
            yield _BAD[number % len(_BAD)] + b"\n", True
            continue
        when = _START + timedelta(minutes=int(minutes[number]))
        line = {"user": f"person {who[number]}", "time": when.isoformat(), "place": _PLACES[place[number]]}
        if not asks[number]:
            line["behavior"] = behaviors[done[number]]
        yield json.dumps(line).encode() + b"\n", bool(asks[number])


def follow(command: list[str], lines: Iterator[tuple[bytes, bool]]) -> dict[str, Any]:
    """Feed the command; what it took.

    Raises:
        UserError: it ended before its lines, or an answer is not of the line that asked.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as service:
        assert service.stdin and service.stdout
        answers, seconds, errors, start = _buffered(service.stdout), [], 0, 0.0
        for number, (line, answered) in enumerate(lines, 1):
            before = time.perf_counter()
            start = start or before
            service.stdin.write(line)
            if not answered:
                continue
            answer = answers.readline()
            if not answer or (found := json.loads(answer))["line"] != number:
                raise UserError(f"line {number}: answered with {answer[:200]!r}")
            if "error" in found:
                errors += 1
            else:
                seconds.append(time.perf_counter() - before)
        took = time.perf_counter() - start
        status = Path(f"/proc/{service.pid}/status").read_text(encoding="utf-8")
        service.stdin.close()
        code = service.wait()
    peak = next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))
    first, last = (np.percentile(part, 99) * 1e3 for part in (seconds[: len(seconds) // 10],
                                                             seconds[-(len(seconds) // 10) :]))
    return {"lines": number, "answers": len(seconds), "errors": errors, "status": code, "minutes": took / 60,
            "lines a second": number / took, "peak MB": peak / 1e3, "median ms": float(np.median(seconds)) * 1e3,
            "p99 ms, first tenth": first, "p99 ms, last tenth": last, "same": last / first}


def _buffered(stream: Any) -> IO[bytes]:
    return open(stream.fileno(), "rb", closefd=False)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.benchmarks.service", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/sft"))
    parser.add_argument("--vocabulary", type=Path, default=Path("data/vocabulary.parquet"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument("--bad", type=float, default=0.05, help="share of lines that are bad (default: %(default)s)")
    parser.add_argument("--ask", type=int, default=5, help="one line in so many is a question (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", help="of predict, behind --")
    args = parser.parse_args()
    history = read_all(args.params).windowing.history
    behaviors = tables.read("vocabulary", args.vocabulary)["behavior"].to_list()
    command = [sys.executable, "-m", "stages.predict", "--model", args.model, "--vocabulary", args.vocabulary,
               "--params", args.params, *args.options]
    lines = traffic(args.lines, args.people, args.bad, args.ask, history, behaviors, args.seed)
    print(json.dumps(follow([str(part) for part in command], lines), indent=2))


if __name__ == "__main__":
    run(main)
