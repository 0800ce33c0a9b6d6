from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from stages.common.tables import SCHEMAS


@pytest.fixture(scope="session")
def log():
    """Events, windows and vocabulary of behaviours drawn from a known chain.

    The hour decides between `a` and `b`, after `a` often comes `c`, and `d` happens at the gym only. `rare` is seen in
    training once, `new` in the test set only.
    """

    def make(users=60, each=60, seed=0, places=True):
        rng = np.random.default_rng(seed)
        rows, names = [], ["a", "b", "c", "d"]
        for user in range(users):
            last, time = 1, datetime(2024, 1, 1)
            for _ in range(each):
                time += timedelta(hours=int(rng.integers(1, 9)))
                place = rng.choice(["home", "gym"], p=[0.8, 0.2])
                weight = np.array([3.0, 1, 1, 0]) if time.hour < 12 else np.array([1.0, 3, 1, 0])
                weight = weight + (last == 0) * np.array([0, 0, 8, 0]) + (place == "gym") * np.array([0, 0, 0, 9])
                last = rng.choice(4, p=weight / weight.sum())
                rows.append((user, time, place if places else None, names[last], None))
        rows[10] = (*rows[10][:3], "rare", None)
        rows[-1] = (*rows[-1][:3], "new", None)
        events = pl.DataFrame(rows, schema=SCHEMAS["events"], orient="row")
        split = np.repeat(np.select([np.arange(users) < users * 0.7, np.arange(users) < users * 0.8],
                                    ["train", "valid"], "natural"), each)
        windows = pl.DataFrame({"row": np.arange(users * each), "split": split})
        windows = windows.filter(pl.col("row") % each >= 5)
        train = events.filter(pl.Series(split) == "train")["behavior"].value_counts(sort=True, name="train_events")
        vocabulary = train.select(
            "behavior", pl.col("train_events").cast(pl.Int64),
            share=pl.col("train_events") / pl.col("train_events").sum(),
            group=pl.when(pl.col("behavior") == "rare").then(pl.lit("tail")).otherwise(pl.lit("head")),
            is_anchor=pl.col("behavior") != "rare",
        )
        return events, windows, vocabulary

    return make


@pytest.fixture(scope="session")
def loud_base(tmp_path_factory):
    """A folder as `models/base` of the tiny model with larger weights: a few steps teach its adapters something."""
    from transformers import AutoModelForCausalLM

    from stages.model.resolve import resolve, write_manifest
    from tests.tiny_model import build

    folder, base = build(tmp_path_factory.mktemp("loud_model")), tmp_path_factory.mktemp("models") / "base"
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            weight.data *= 12 if "embed" in name else 4
    model.save_pretrained(folder)
    base.mkdir()
    write_manifest(resolve(str(folder), ""), base)
    return base
