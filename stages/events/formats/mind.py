"""MIND, Microsoft's news data (Wu et al. 2020, ACL): the folder with `behaviors.tsv` and `news.tsv`.

Tab-separated, no header. `behaviors.tsv`: impression, user, `11/11/2019 9:05:58 AM`, history, impressions
(`N1-1 N2-0`, 1 for a click). `news.tsv`: id, category, subcategory, title, and more. Read in the data's own page and in
RUCAIBox/RecSysDatasets, whose reader moves noon by half a day.

The behaviour is category and subcategory of each article that was clicked, all at the impression's time; an impression
without a click is no event, and the history, which has no times, is not read. The zone is not said; times are taken as
local. `source.files` leaves the vectors beside them out: '*.tsv'.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from stages.events import delimited, exports, reading
from stages.events.columns import one_each
from stages.events.reading import Piece
from stages.events.sample import Sample
from stages.events.settings import Source

_NAMES = ["impression", "user", "time", "history", "impressions"]
_NEWS = ["id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities"]
TWO_FILES = True
_CLICK = r"\S+-1(?:\s|$)"


def fits(sample: Sample) -> bool:
    rows = sample.rows("\t")
    return bool(rows) and all(len(row) == len(_NAMES) and row[2].endswith(("AM", "PM")) for row in rows)


def read(path: Path, source: Source) -> Iterator[Piece]:
    """Rows of a file; none of `news.tsv`.

    Raises:
        UserError: the file is not in this layout, or has no `news.tsv` beside it.
    """
    if _is_news(path):
        return
    news = exports.beside(path, source, _is_news, "news.tsv")
    name = pl.col("category") + ": " + pl.col("subcategory")
    listed = (piece.parse() for piece in delimited.records(news, _NEWS, "\t"))
    names = exports.names_of(news, listed, pl.col("id"), name)
    meaning = exports.Meaning(
        pl.col("time"), pl.col("behavior"), exports.local(source, "%m/%d/%Y %I:%M:%S %p"), user=pl.col("user"),
        ignored=~pl.col("impressions").str.contains(_CLICK))
    pieces = (piece.then(_clicks).then(lambda frame: frame.with_columns(
        behavior=exports.meant(pl.col("behavior"), names)))
        for piece in exports.headless(path, source, _NAMES, "\t"))
    yield from exports.rows(pieces, path, source, meaning)


def _is_news(path: Path) -> bool:
    line = reading.start(path).partition(b"\n")[0]
    return line.count(b"\t") == len(_NEWS) - 1 and line.startswith(b"N")


def _clicks(frame: pl.DataFrame) -> pl.DataFrame:
    clicked = pl.col("impressions").str.extract_all(_CLICK).list.eval(
        pl.element().str.strip_chars().str.strip_suffix("-1"))
    return one_each(frame.with_columns(behavior=clicked))
