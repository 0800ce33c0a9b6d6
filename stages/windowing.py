"""Events -> windows of (history, next event), split by user, and the vocabulary of the training users.

Writes the tables `windows` and `vocabulary` and a JSON of counts: windows and users of each split, users too short for
a window and their events, the skew of the vocabulary, labels outside it, and the behaviours of which the balanced test
set wanted more windows than there are, or has none.
"""

from typing import Any

import numpy as np
import polars as pl

from stages.common import errors
from stages.common.params import Section, Seed
from stages.common.stage import COUNTS, Stage, csv, table
from stages.prompts.settings import Prompt
from stages.windows import cut as windows
from stages.windows.room import check_room
from stages.windows.settings import Windowing

_NAMED = 5  # behaviours, at most, in the printed line


class Params(Section):
    data_seed: Seed
    windowing: Windowing
    prompt: Prompt


def windowing(
    events: pl.LazyFrame | pl.DataFrame, params: Params
) -> tuple[pl.LazyFrame, pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """The tables `windows` and `vocabulary`, the shares that a plot draws, and the counts.

    Raises:
        UserError: no user has enough events, a split has no usable user, or the training users know one behaviour only,
            or more than a prompt can name.
    """
    settings, seed = params.windowing, params.data_seed
    log = windows.read_histories(events.lazy())
    usable = log.lengths > settings.min_history
    split = windows.split_users(log.users, seed, settings.fold)
    _check_users(log.users[usable], split[usable], log.lengths, settings, seed)

    vocabulary = windows.train_vocabulary(log, split == "train", settings.anchor_threshold)
    vocabulary = windows.without_some_tail(vocabulary, settings.new_behaviors, settings.anchor_threshold, seed)
    if settings.new_behaviors and vocabulary.height < 2:
        raise errors.UserError(
            f"windowing.new_behaviors: {settings.new_behaviors}: leaves {vocabulary.height} behaviours, and two are "
            "needed; lower it"
        )
    if vocabulary.height < 2:
        raise errors.UserError(
            f"the training users know only one behaviour, {vocabulary['behavior'][0]!r}: there is nothing to predict; "
            "check source.columns.behavior and source.taxonomy in params.yaml"
        )
    check_room(vocabulary["behavior"].to_list(), params.prompt.max_tokens)
    split = windows.with_fewer_trained(log.users, split, usable, settings.train_people, seed)
    made = windows.make_windows(log, split, vocabulary["behavior"], seed, settings.min_history, settings.natural,
                           settings.balanced_per_behavior)
    counts = _counts(made, vocabulary, split, usable, log.lengths, settings.balanced_per_behavior)
    return made.table, vocabulary, frequencies(vocabulary), counts


def _check_users(usable: np.ndarray, split: np.ndarray, lengths: np.ndarray, settings: Windowing, seed: int) -> None:
    min_history = settings.min_history
    if not len(usable):
        raise errors.UserError(
            f"no user is long enough: a window needs {min_history + 1} events of one user, the longest has "
            f"{lengths.max(initial=0)}; lower windowing.min_history ({min_history}) or bring a longer log"
        )
    if len(usable) < 3:
        raise errors.UserError(
            f"{len(usable)} of {len(lengths)} users have the {min_history + 1} events that a window needs; at least 3 "
            "are needed, one each for training, validation and test: bring more users or lower windowing.min_history"
        )
    if missing := [name for name in ("train", "valid", "test") if name not in split]:
        fits = next((s for s in range(10_000) if len(set(windows.split_users(usable, s, settings.fold))) == 3), None)
        other_seed = "" if fits is None else f", or set data_seed to {fits}, which gives each split one"
        raise errors.UserError(
            f"split {' and '.join(missing)} got none of the {len(usable)} users that are long enough "
            f"(data_seed {seed}); bring more users{other_seed}"
        )


def _counts(
    made: windows.Windows, vocabulary: pl.DataFrame, user_split: np.ndarray, usable: np.ndarray, lengths: np.ndarray,
    wanted: int,
) -> dict[str, Any]:
    group, natural, short = vocabulary["group"], len(made.rows["natural"]), lengths[~usable]
    return {
        # there is a split of strange validation windows only where there are any
        "windows": {name: len(rows) for name, rows in made.rows.items() if len(rows) or name != windows.VALID_OUTSIDE},
        "users": {name: int((user_split[usable] == name).sum()) for name in ("train", "valid", "test")}
        | {"too_short": len(short)},
        "too_short": {"users": len(short), "share_of_users": len(short) / len(lengths), "events": int(short.sum()),
                      "share_of_events": float(short.sum() / lengths.sum())},
        "behaviors": vocabulary.height, "anchors": int(vocabulary["is_anchor"].sum()),
        **{name: int((group == name).sum()) for name in ("head", "medium", "tail")},
        "largest_share": vocabulary["share"][0], "smallest_share": vocabulary["share"][-1],
        "out_of_vocabulary": {
            "windows": sum(made.out_of_vocabulary.values()), "natural": made.natural_outside,
            "natural_share": made.natural_outside / natural if natural else None,
            "by_behavior": made.out_of_vocabulary,
        },
        "balanced_shortfall": {
            "wanted": wanted, "had": {name: count for name, count in made.balanced.items() if count < wanted},
            "without": [name for name, count in made.balanced.items() if not count],
        },
    }


def frequencies(vocabulary: pl.DataFrame) -> pl.DataFrame:
    """Each behaviour's share of the training events, most frequent first, anchors and tail apart (Figure 1a)."""
    kind = pl.when("is_anchor").then(pl.lit("anchor")).otherwise(pl.lit("tail"))
    return vocabulary.select(
        rank=pl.int_range(1, pl.len() + 1), behavior="behavior", kind=kind, share=pl.col("share").round(6)
    )


def _message(args: Any, windows: Any, vocabulary: pl.DataFrame, plot: pl.DataFrame, counts: dict[str, Any]) -> str:
    """The sizes; then what is left out or cannot be got right, a line each, where there is any."""
    sizes = ", ".join(f"{count:,} {name}" for name, count in counts["windows"].items())
    lines = [f"windows: {sizes}; {counts['behaviors']} behaviours, {counts['anchors']} of them anchors"]
    outside, short, without = counts["out_of_vocabulary"], counts["too_short"], counts["balanced_shortfall"]["without"]
    if outside["natural"]:
        lines.append(f"{outside['natural']:,} natural windows ({outside['natural_share']:.1%}) are of behaviours that "
                     "no training user has: a model can name one only where the person did it before")
    if short["users"]:
        lines.append(f"{short['users']:,} users ({short['share_of_users']:.1%}) with {short['share_of_events']:.1%} of "
                     "the events are too short for a window (windowing.min_history), and are neither trained on nor "
                     "tested")
    if without:
        more = f" and {len(without) - _NAMED:,} more" if len(without) > _NAMED else ""
        lines.append(f"{len(without):,} of {counts['behaviors']:,} behaviours have no balanced window: "
                     f"{', '.join(without[:_NAMED])}{more}")
    return "\n".join(lines)


STAGE = Stage(
    "windowing", __doc__, windowing, Params, reads={"events": table("events", lazy=True)},
    writes={"out": table("windows"), "vocabulary": table("vocabulary"),
            "plot": csv("shares of the behaviours (CSV)"), "counts": COUNTS},
    message=_message,
)

if __name__ == "__main__":
    STAGE.run()
