"""RecBole's atomic files: a folder, or one file, of `.inter` (Zhao et al. 2021, CIKM).

Tab-separated; the header types its names: `user_id:token`, `item_id:token`, `timestamp:float` (unix seconds, by
RecBole's convention; the zone is not said). Read in RUCAIBox/RecBole (`ml-100k.inter`). The behaviour is `item <id>`:
`source.top`, or a taxonomy. Other atomic files (`.item`, `.user`, `.kg`, `.link`, `.net`) have no events, and no rows.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import exports
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_NEEDED = ["user_id", "item_id", "timestamp"]
_OTHERS = (".item", ".user", ".kg", ".link", ".net")


def fits(sample: Sample) -> bool:
    return set(_NEEDED) <= {_name(each) for each in sample.header if ":" in each}


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file.

    Raises:
        UserError: the file is not in this layout, or `source.time_zone` is empty.
    """
    if path.suffix in _OTHERS:
        return iter(())
    meaning = exports.Meaning(pl.col("timestamp"), pl.lit("item ") + pl.col("item_id"), exports.utc(source, "unix"),
                              user=pl.col("user_id"))
    return exports.rows(exports.headed(path, source, _NEEDED, _name), path, source, meaning)


def _name(typed: str) -> str:
    return typed.partition(":")[0]
