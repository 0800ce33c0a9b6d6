"""Which windows every model answers: both test sets, and the validation windows on which its decisions are chosen."""

import numpy as np
import polars as pl

from stages.common.errors import UserError
from stages.windows.settings import Predictions

SPLITS = ("natural", "balanced", "valid_natural", "valid_balanced")

_STREAM = 6  # tells this choice from the others of the same seed


def tested(events: pl.DataFrame, windows: pl.DataFrame, params: Predictions, seed: int) -> pl.DataFrame:
    """Columns `row`, `split` (of `SPLITS`) and `behavior`, sorted by split and row; no window occurs twice.

    The validation windows are a seeded choice among those of split `valid`, made as the test sets are: first
    `valid_natural` as they come, at most half of them all, then at most `valid_per_behavior` a behaviour of the rest.

    Raises:
        UserError: there is no test window, or no validation window.
    """
    test = windows.filter(pl.col("split").is_in(["natural", "balanced"]))
    valid = windows.filter(pl.col("split") == "valid")["row"].sort().to_numpy()
    for name, found in (("natural or balanced", len(test)), ("valid", len(valid))):
        if not found:
            raise UserError(f"windows: none of split {name}; the log has too few users, or too short ones")
    order = np.random.default_rng([seed, _STREAM]).permutation(valid)
    size = min(params.valid_natural, len(order) // 2)
    rest = pl.DataFrame({"row": order[size:]}, schema={"row": pl.Int64})
    rest = rest.with_columns(behavior=events["behavior"].gather(rest["row"]))
    balanced = rest.group_by("behavior", maintain_order=True).head(params.valid_per_behavior)["row"]
    parts = [test.select("row", "split")]
    for name, rows in (("valid_natural", pl.Series(order[:size])), ("valid_balanced", balanced)):
        parts.append(pl.DataFrame({"row": rows}, schema={"row": pl.Int64}).with_columns(split=pl.lit(name)))
    chosen = pl.concat(parts).sort("split", "row")
    return chosen.with_columns(behavior=events["behavior"].gather(chosen["row"]))
