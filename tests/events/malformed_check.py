"""Reads malformed logs and says what is not right: a traceback, a row lost, a value changed, a message without a name.

    python -m tests.events.malformed_check --logs 10000
"""

import argparse
import os
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.common.hashing import pseudonym
from stages.events.assembly import Log, read_log
from stages.events.formats import FORMATS
from stages.ingest import ingest
from tests.events.helpers import ROOT, table_params
from tests.events.malformed import USERS, Malformed, malformed, write
from tests.events.malformed_reference import EITHER, expected


def check(seed: int, folder: Path) -> tuple[str, str | None]:
    """How reading the log of a seed ended (`read`, or `error`), and what is wrong with that, or None."""
    log = malformed(seed)
    path = write(log, folder)
    right = expected(log)
    params = table_params(path, **log.changes)
    try:
        read = read_log(FORMATS["table"], params.source, None)
        if read.quarantine.height > 0.05 * read.rows:  # the message of a log that is refused for its rows
            try:
                ingest(table_params(path, **log.changes, ingest__max_refused=0.05), ROOT / "data" / "taxonomy",
                       folder / "oracle.parquet")
            except UserError as error:
                if wrong := _wrong_message(str(error), path, log):
                    return "error", wrong
        return "read", _wrong_rows(read, right)
    except UserError as error:
        if right is not None and not log.done:
            return "error", f"an error where the rows can be read: {error}"
        return "error", _wrong_message(str(error), path, log)
    except BaseException:  # a panic of Polars is no Exception
        return "traceback", traceback.format_exc()
    finally:
        path.unlink()


def _wrong_message(message: str, path: Path, log: Malformed) -> str | None:
    if path.name not in message and "source." not in message:
        return f"a message that names neither file nor key: {message}"
    if "\n" in message.strip() and "rows" not in message:
        return f"a message of many lines: {message}"
    if not any("header" in name for name in log.done):
        for user in USERS:
            if len(user) > 7 and user in message:
                return f"a message that holds an id: {message}"
    return None


def _wrong_rows(log: Log, right: list | None) -> str | None:
    if log.events.height + log.quarantine.height != log.rows:
        return f"{log.rows} rows, {log.events.height} events, {log.quarantine.height} quarantined"
    if right is None:
        return None
    if len(right) != log.rows:
        return f"{log.rows} rows, and the reference reads {len(right)}"
    sure = Counter((pseudonym(user), time, place, behavior) for user, time, place, behavior in
                   (event for event in right if isinstance(event, tuple)))
    events = log.events.select("user", "time", pl.col("place", "behavior"))
    found = Counter((user, time, place.casefold(), behavior.casefold())
                    for user, time, place, behavior in events.iter_rows())
    lost, more = sure - found, found - sure
    if lost or more.total() > right.count(EITHER):
        return f"not read: {dict(lost)}; read and not there: {dict(more)}; {right.count(EITHER)} rows may be either"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    args = parser.parse_args()
    ends, faults, known = Counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BEHAVIORLM_CACHE"] = folder  # the key that ids are hashed with
        for seed in range(args.first, args.first + args.logs):
            known += expected(malformed(seed)) is not None
            end, wrong = check(seed, Path(folder))
            ends[end] += 1
            if wrong:
                faults += 1
                print(f"seed {seed} ({malformed(seed).kind}, {', '.join(malformed(seed).done)}): {wrong}", flush=True)
    print(f"{args.logs:,} logs: {dict(ends)}, {known:,} with a reference; {faults} faults")


if __name__ == "__main__":
    main()
