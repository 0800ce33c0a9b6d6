"""Which windows every model answers: both test sets, and the validation windows on which its decisions are chosen."""

import polars as pl

from stages.common.draws import first_of_each, stream
from stages.common.errors import UserError
from stages.windows.cut import VALID_OUTSIDE
from stages.windows.settings import Predictions

SPLITS = ("natural", "balanced", "valid_natural", "valid_balanced")


def tested(events: pl.DataFrame, windows: pl.DataFrame, params: Predictions, seed: int) -> pl.DataFrame:
    """Columns `row`, `split` (of `SPLITS`) and `behavior`, sorted by split and row; no window occurs twice.

    The validation windows are a seeded choice among those of validation users, made as the test sets are: first
    `valid_natural` as they come, at most half of them all, those of behaviours outside the vocabulary among them; then
    at most `valid_per_behavior` a behaviour of the vocabulary of the rest.

    Raises:
        UserError: there is no test window, or no validation window.
    """
    test = windows.filter(pl.col("split").is_in(["natural", "balanced"]))
    valid = windows.filter(pl.col("split").is_in(["valid", VALID_OUTSIDE])).sort("row")
    for name, found in (("natural or balanced", test), ("valid", valid.filter(split="valid"))):
        if not len(found):
            raise UserError(f"windows: none of split {name}; the log has too few users, or too short ones")
    order = valid[stream(seed, "tested windows").permutation(len(valid))]
    size = min(params.valid_natural, len(order) // 2)
    as_it_comes, rest = order["row"][:size], order[size:].filter(split="valid")["row"]
    balanced = rest[first_of_each(events["behavior"].gather(rest).rank("dense").to_numpy(), params.valid_per_behavior)]
    parts = [test.select("row", "split")]
    for name, rows in (("valid_natural", as_it_comes), ("valid_balanced", balanced)):
        parts.append(pl.DataFrame({"row": rows}, schema={"row": pl.Int64}).with_columns(split=pl.lit(name)))
    chosen = pl.concat(parts).sort("split", "row")
    return chosen.with_columns(behavior=events["behavior"].gather(chosen["row"]))
