"""The tables between the stages: one schema each, checked where a table is written and again where it is read.

Each file carries a checksum of its own bytes (`stages.common.checksums`), which is compared before anything is read.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import polars as pl
from polars.io.plugins import register_io_source

from stages.common.checksums import MARK, check_seal, seal
from stages.common.errors import UserError
from stages.common.files import atomic_file

FLOATS = pl.List(pl.Float32)
INTS = pl.List(pl.Int32)

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

# The id that stands for the prior of event 0; no tokenizer has so many tokens.
PRIOR_TOKENS = 2**24

# Rows of a group of rows in a file, so that the file's bytes depend on its rows alone
_ROWS_OF_GROUP = 250_000

SCHEMAS: dict[str, dict[str, pl.DataType]] = {
    # an event, sorted by (user, instant); ties keep the order in which they happened. `time` is local wall-clock time,
    # `offset` its minutes from UTC (the instant is `time` - `offset`), null where the log does not say
    "events": {
        "user": pl.UInt64, "time": pl.Datetime("us"), "place": pl.String, "behavior": pl.String, "offset": pl.Int16,
    },
    # a row of the log that could not become an event; `text` is the field at fault, never the user's, empty if it is
    # the row as a whole
    "quarantine": {"file": pl.String, "line": pl.Int64, "rule": pl.String, "text": pl.String},
    # a behaviour of the training users, most frequent first
    "vocabulary": {
        "behavior": pl.String, "train_events": pl.Int64, "share": pl.Float64, "group": pl.String,
        "is_anchor": pl.Boolean,
    },
    # a window: `row` is the target's row number in `events`, its history are the rows before it
    "windows": {"row": pl.Int64, "split": pl.String},
    # a simulated event's true distribution over the vocabulary of the simulator (simulated source only)
    "oracle": {"row": pl.Int64, "p": FLOATS},
    # a conversation of the auxiliary task: turns alternate, the first is the person's
    "conversations": {"turns": pl.List(pl.String)},
    # a behaviour of the vocabulary as the untuned model sees its name: unit vector, and the anchor most like it
    "embeddings": {"behavior": pl.String, "nearest_anchor": pl.String, "likeness": pl.Float32, "embedding": FLOATS},
    # a tokenised sequence; targets are the half-open token spans [target_start, target_end), each with the number of
    # its behaviour in the vocabulary and its row in `events`, both -1 in a conversation; an id from `PRIOR_TOKENS` on
    # is no token of the model's, it stands for the prior of an event
    "instructions": {
        "input_ids": INTS, "target_start": INTS, "target_end": INTS, "target_behavior": INTS,
        "target_row": pl.List(pl.Int64),
    },
    # what the model of habits finds of an event before it happens, `log_p` as in an open table of predictions; without
    # rows unless a language model is told (`prompt.prior`)
    "prior": {"row": pl.Int64, "log_p": FLOATS},
    # a scored training window
    "scores": {
        "row": pl.Int64, "behavior": pl.String, "predicted": pl.String, "runner_up": pl.String, "p_true": pl.Float32,
        "p_predicted": pl.Float32, "p_runner_up": pl.Float32, "within_category": pl.Int8, "embedding": FLOATS,
    },
    # a preference pair
    "pairs": {"row": pl.Int64, "chosen": pl.String, "rejected": pl.String, "difficulty": pl.Float32},
    # a test or validation window under one model: log_p over the vocabulary, in its order, and in an open table over
    # what else the person did before, in the order in which it was first done (`stages.windows.past`); `split` is
    # natural, balanced, valid_natural or valid_balanced
    "predictions": {"row": pl.Int64, "split": pl.String, "behavior": pl.String, "log_p": FLOATS},
}


CONTENT = {
    "events": "the log, an event a row (from stage ingest)",
    "quarantine": "each refused row of the log, with the rule",
    "oracle": "the simulator's own probabilities (from stage ingest)",
    "windows": "which events are targets, and their splits (from stage windowing)",
    "vocabulary": "the candidate behaviours and their groups (from stage windowing)",
    "conversations": "conversations of the auxiliary task (from stage auxiliary)",
    "embeddings": "behaviours as the untuned model sees their names (from stage embeddings)",
    "prior": "what the model of habits finds of events, for a language model (from stage prior)",
    "scores": "training windows under the SFT model (from stage scoring)",
    "pairs": "preference pairs (from stage selection)",
    "predictions": "log-probabilities of the test and validation windows under one model (from stage predictions)",
}
"""What each table holds, for --help."""


def check(frame: Frame, table: str, path: Path) -> Frame:
    """Return `frame` with exactly the columns of `table`, in order.

    Raises:
        UserError: a column is missing, unknown or of another type.
    """
    want, have = SCHEMAS[table], dict(frame.collect_schema())
    if have != want:
        wrong = [f"{name}: {have.get(name, 'missing')}, expected {want.get(name, 'no such column')}"
                 for name in want.keys() | have.keys() if have.get(name) != want.get(name)]
        if wrong:
            raise UserError(f"{path}: not a table of {table}: " + "; ".join(sorted(wrong)))
    return frame.select(list(want))


def write(frame: pl.DataFrame | pl.LazyFrame, table: str, path: Path) -> None:
    """Write `frame` as Parquet, atomically, after checking it against its schema."""
    frame = check(frame.lazy(), table, path)
    with atomic_file(path) as part:
        frame.sink_parquet(part, compression="zstd", statistics=True, row_group_size=_ROWS_OF_GROUP, metadata=MARK)
        seal(part)


def write_blocks(blocks: Iterator[pl.DataFrame], table: str, path: Path) -> None:
    """Write the frames as one table, as `write` does, each as it comes: the table may be larger than memory.

    Raises:
        UserError: a frame is not of the table's schema; and what `blocks` raises.
    """
    def checked(columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, size: int | None):
        # a sink asks for all columns and all rows
        return (check(block, table, path) for block in blocks)

    write(register_io_source(checked, schema=SCHEMAS[table]), table, path)


def read(table: str, path: Path) -> pl.DataFrame:
    """Read a table written by `write`.

    Raises:
        UserError: the file is absent, no Parquet file, damaged, without a checksum, or not of this table's schema.
    """
    with reading(path):
        _check_file(path)
        return check(pl.read_parquet(path, glob=False), table, path)


def scan(table: str, path: Path) -> pl.LazyFrame:
    """A table written by `write`, checked whole now; only what is asked for is read, later: within `reading`.

    Raises:
        UserError: as `read`.
    """
    with reading(path):
        _check_file(path)
        return check(pl.scan_parquet(path, glob=False), table, path)


def read_bytes(table: str, content: bytes, path: Path) -> pl.DataFrame:
    """Read a table from the content of its file, `path`.

    Raises:
        UserError: as `read`.
    """
    with io.BytesIO(content) as file:
        check_seal(file, path)
        file.seek(0)
        return check(pl.read_parquet(file), table, path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong with the file at `path` into a UserError."""
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; `dvc repro` makes it, `dvc pull` fetches it")
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); delete it and run `dvc repro`") from error


def _check_file(path: Path) -> None:
    with open(path, "rb") as file:
        check_seal(file, path)
