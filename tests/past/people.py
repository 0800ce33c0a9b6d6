"""A log in which a person's past tells."""

import numpy as np
import polars as pl


def two_kinds_of_people() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Tables `events`, `windows` and `vocabulary` of two kinds of people: who knows a person's past knows what they do.

    What three of the test users do, nobody in training does.
    """
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        liked = ["a", "b"] if user % 2 else ["c", "d"]
        liked = ["z", "y"] if user >= 57 else liked
        for number in range(30):
            rows.append((user, number, str(rng.choice([*liked, "e"], p=[0.6, 0.3, 0.1]))))
    events = pl.DataFrame(rows, schema=["user", "hour", "behavior"], orient="row")
    events = events.select(
        user=pl.col("user").cast(pl.UInt64), time=(pl.datetime(2024, 1, 1) + pl.duration(hours=pl.col("hour") * 5)),
        place=pl.lit("home"), behavior="behavior", offset=pl.lit(None, pl.Int16))
    split = pl.when(pl.col("user") < 40).then(pl.lit("train")).when(pl.col("user") < 50).then(pl.lit("valid"))
    windows = events.with_row_index("row").filter(pl.int_range(pl.len()).over("user") >= 5)
    windows = windows.select(pl.col("row").cast(pl.Int64), split=split.otherwise(pl.lit("natural")))
    counts = events.filter(pl.col("user") < 40)["behavior"].value_counts().sort("count", "behavior", descending=True)
    vocabulary = pl.DataFrame({
        "behavior": counts["behavior"], "train_events": counts["count"].cast(pl.Int64),
        "share": counts["count"] / counts["count"].sum(), "group": "head", "is_anchor": True,
    })
    return events, windows, vocabulary
