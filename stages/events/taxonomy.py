"""A taxonomy maps the names in a log to behaviours: a CSV of two columns, raw and behavior.

A name is listed if the taxonomy has it, in this case or (unless that is ambiguous) in another.
"""

import csv
from pathlib import Path

import polars as pl

from stages.common.errors import UserError
from stages.events import reading
from stages.events.rules import clean, label_rule


def find(name: str, log_format: str, folder: Path) -> Path | None:
    """The file that `source.taxonomy` means, or None for no taxonomy.

    Raises:
        UserError: a file is named and is not in `folder`.
    """
    if name == "none":
        return None
    if name == "auto":
        ours = folder / f"{log_format}.csv"
        return ours if ours.is_file() else None
    if not (folder / name).is_file():
        there = ", ".join(sorted(file.name for file in folder.glob("*.csv"))) or "none"
        raise UserError(f"source.taxonomy: {name!r}: no such file in {folder} (there: {there}); or set auto or none")
    return folder / name


def read(path: Path) -> pl.DataFrame:
    """Columns `raw` and `behavior`, cleaned like the labels of a log.

    Raises:
        UserError: names the file, the line and the value that is wrong: another header, a field missing or too many, a
            label that no prompt could hold, a name mapped twice differently.
    """
    text = b"".join(block.text for block in reading.blocks(path))
    try:
        rows = list(csv.reader(text.decode("utf-8-sig").splitlines()))
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8; save the taxonomy as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}: no readable CSV ({error}); a line of it is a name and its behaviour") from None
    if [name.strip() for name in rows[0]] != ["raw", "behavior"]:
        raise UserError(f"{path}: line 1: {len(rows[0])} fields that are not the header; it must be 'raw,behavior'")
    numbered = [(line, row) for line, row in enumerate(rows[1:], start=2) if any(field.strip() for field in row)]
    for line, row in numbered:
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            found = f"{len(row)} fields" if len(row) != 2 else "an empty field"
            raise UserError(f"{path}: line {line}: {found}; two are needed, raw,behavior; quote a comma")
    table = pl.DataFrame(
        [(line, *row) for line, row in numbered], schema={"line": pl.Int64, "raw": pl.String, "behavior": pl.String},
        orient="row",
    ).with_columns(rule=label_rule(pl.col("behavior")))
    for line, _, behavior, rule in table.filter(pl.col("rule").is_not_null()).iter_rows():
        raise UserError(f"{path}: line {line}: {behavior!r}: {rule}; give the behaviour another name")
    table = table.select("line", clean(pl.col("raw")), clean(pl.col("behavior")))
    _check_names(path, table)
    return table.select("raw", "behavior").unique(maintain_order=True)


def _check_names(path: Path, table: pl.DataFrame) -> None:
    if table.is_empty():
        raise UserError(f"{path}: the taxonomy has a header and no names")
    mapped: dict[str, tuple[int, str]] = {}
    for line, raw, behavior in table.iter_rows():
        before, other = mapped.setdefault(raw, (line, behavior))
        if other != behavior:
            raise UserError(
                f"{path}: line {line}: {raw!r} is {behavior!r} here and {other!r} on line {before}; keep one"
            )


class Taxonomy:
    """What a taxonomy says of names."""

    def __init__(self, table: pl.DataFrame | None):
        """Of a table that `read` gave; None has no names, and calls none unlisted."""
        self._is_one = table is not None
        pairs: list[tuple[str, str]] = [] if table is None else list(table.iter_rows())
        self._behaviors = dict(pairs)
        self._spellings: dict[str, list[str]] = {}
        for raw, _ in pairs:
            self._spellings.setdefault(raw.casefold(), []).append(raw)

    def look_up(self, names: pl.Series) -> pl.DataFrame:
        """Of each (clean) name: `listed`, as the taxonomy spells it, its `behavior`, and whether it is `unlisted`."""
        listed = [self._listed(name) for name in names]
        return pl.DataFrame({
            "listed": listed, "behavior": [raw and self._behaviors[raw] for raw in listed],
            "unlisted": [self._is_one and raw is None for raw in listed],
        }, schema={"listed": pl.String, "behavior": pl.String, "unlisted": pl.Boolean})

    def _listed(self, name: str) -> str | None:
        if name in self._behaviors:
            return name
        alike = self._spellings.get(name.casefold(), [])
        meant = {self._behaviors[raw].casefold() for raw in alike}
        return alike[0] if len(meant) == 1 else None
