"""A small log and an adapter that somebody could have tuned on it, for tests of prompts, models and stages."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.draws import positions
from stages.model.settings import Lora
from stages.params import Params
from stages.windows.cut import vocabulary
from tests.events.helpers import params_with

# One begins another, one begins with another's first word, one is of another script; the last two are tail.
BEHAVIORS = (
    "Watching video", "Watching video clip", "Taking a taxi", "Taking a walk, alone", 'Reading "news"', "看电影",
)
SHARES = (0.3, 0.25, 0.2, 0.15, 0.06, 0.04)
PLACES = ("home", "the office", "in the city")
ANCHORS_ABOVE = 0.1


def small_log(lengths: Sequence[int] = (40, 40, 30, 30, 25, 25), seed: int = 0, unique: bool = False) -> pl.DataFrame:
    """Table `events`: one user for each length, random behaviours at random hours.

    With `unique` every place is the event's own row, so that a prompt's text shows which events are in it.
    """
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(len(lengths)), lengths)
    hours = np.concatenate([np.cumsum(rng.integers(1, 40, size=length)) for length in lengths])
    places = [f"p{row}" for row in range(len(users))] if unique else rng.choice(PLACES, size=len(users)).tolist()
    behaviors = rng.choice(BEHAVIORS, size=len(users), p=SHARES).tolist()
    times = [datetime(2024, 3, 1) + timedelta(hours=int(hour)) for hour in hours]
    columns = {"user": users, "time": times, "place": places, "behavior": behaviors, "offset": None}
    return pl.DataFrame(columns, schema=tables.SCHEMAS["events"])


def all_behaviors() -> pl.DataFrame:
    """Table `vocabulary` of BEHAVIORS as they are drawn."""
    counts = (np.array(SHARES) * 1000).round().astype(int)
    return vocabulary(pl.DataFrame({"behavior": BEHAVIORS, "train_events": counts}), ANCHORS_ABOVE)


def vocabulary_of(train: pl.DataFrame, anchor_threshold: float) -> pl.DataFrame:
    """Table `vocabulary` of the training users' events."""
    return vocabulary(train.group_by("behavior").agg(train_events=pl.len().cast(pl.Int64)), anchor_threshold)


def small_windows(events: pl.DataFrame, splits: Sequence[str], min_history: int = 3) -> pl.DataFrame:
    """Table `windows`: the targets of user i in the split `splits[i]`."""
    user = events["user"].to_numpy()
    rows = np.flatnonzero(positions(user) >= min_history)
    return pl.DataFrame({"row": rows, "split": [splits[i] for i in user[rows]]}, schema=tables.SCHEMAS["windows"])


def small_params(**changes) -> Params:
    """Params that suit the small log and the tiny model, with changes such as `dpo__beta=0.5`."""
    defaults = {
        "windowing__history": 6, "windowing__min_history": 3, "prompt__stream_events": 9, "prompt__layout": "stream",
        "prompt__max_tokens": 1024, "sft__labels": "anchors", "lora__rank": 4, "lora__alpha": 8, "lora__dropout": 0,
        "seed": 0,
    }
    return params_with(**(defaults | changes))


def sft_adapter(base: Path, folder: Path, seed: int = 1) -> Path:
    """A folder as `models/sft`: an adapter on `base` that changes what it says."""
    import torch

    from stages.model.load import new_adapter, save_adapter
    from stages.model.resolve import read_manifest

    model = new_adapter(base, Lora(rank=4, alpha=8, dropout=0), seed, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.2, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    save_adapter(model, read_manifest(base), folder)
    return folder
