"""Stage `fusion`: the model of habits, a language model and counting, pooled into one predictor.

A logarithmic opinion pool, its weights by log-loss on validation users; see stages/past/pool.py. Which tables are
pooled beside that of `habits` stands in `fusion` of params.yaml.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stages.common import tables
from stages.common.checksums import seal_folder
from stages.common.errors import UserError
from stages.common.files import atomic_folder, write_json
from stages.common.params import Section
from stages.common.stage import COUNTS, Kind, Stage, place, table
from stages.metrics.candidates import OUTSIDE
from stages.metrics.decisions import first_half
from stages.metrics.splits import VALID, OpenTable, Split, with_log_p
from stages.past.parts import digests
from stages.past.pool import FORMAT, fit_weights, pooled
from stages.past.settings import Fusion


class Params(Section):
    fusion: Fusion


def fusion(
    events: pl.DataFrame, vocabulary: pl.DataFrame, predictions: Path, models: Path, params: Params
) -> tuple[pl.DataFrame, dict[str, Any], dict[str, Any]]:
    """Table `predictions` of the pool, the pool itself, and what was found.

    The pool is its `format`, `weights` by part, `models`, by which it knows those again that it was fitted on, how many
    validation windows chose the weights, and `valid_log_loss` there: of each part, of `fusion`, and of a pool of the
    other parts `without` the language model, the last two with weights that other users chose. None without a window.

    Test windows are pooled with the weights that all natural validation windows choose. A validation window gets those
    that the other half of the validation users chose, or it would look better than it is; users are halved by turns.

    Args:
        predictions: folder of the tables that are pooled.
        models: folder of the models that made them.

    Raises:
        UserError: a table is absent, or not of the same windows; a model is absent or damaged.
    """
    names = ("habits", params.fusion.model, params.fusion.beside)
    frames = _tables(names, predictions)
    parts = [OpenTable.of(frame, events, vocabulary).windows for frame in frames]
    log_p, user, split = [each.log_p for each in parts], parts[0].user, frames[0]["split"].to_numpy()
    valid = [each.part(split == "valid_natural") for each in parts]
    weights, first = _fitted(valid, np.ones(len(valid[0].label), bool)), first_half(user[np.isin(split, VALID)])
    by_half = _by_half(valid, first)
    found, own = pooled(log_p, weights), np.isin(split, VALID)
    found[own] = _crossed([each[own] for each in log_p], user[own], by_half, first)

    known, label = valid[0].label != OUTSIDE, valid[0].label
    losses = {name: _loss(each.log_p[known], label[known]) for name, each in zip(names, valid, strict=True)}
    others = [each for name, each in zip(names, valid, strict=True) if name != params.fusion.model]
    for name, members, chosen in (("fusion", valid, by_half), ("without", others, _by_half(others, first))):
        answered = _crossed([each.log_p for each in members], valid[0].user, chosen, first)
        losses[name] = _loss(answered[known], label[known])
    found_of = {"weights": dict(zip(names, weights.tolist(), strict=True)), "valid_windows": int(known.sum()),
                "valid_log_loss": losses}
    pool = {"format": FORMAT, **found_of, "models": digests(models, names)}
    return with_log_p(frames[0], found), pool, {
        "layout": "past", "context": "next", "events_dropped": 0, "windows": len(found), **found_of,
        "weights_by_half": [dict(zip(names, each.tolist(), strict=True)) for each in by_half.values()],
    }


def _tables(names: Sequence[str], folder: Path) -> list[pl.DataFrame]:
    """The tables of these predictors, of the same windows in the same order."""
    frames: list[pl.DataFrame] = []
    for name in names:
        path = folder / f"{name}.parquet"
        if not path.exists():
            raise UserError(f"{path}: no such file, and it is to be pooled; {_maker(name)}")
        frames.append(tables.read("predictions", path).sort("split", "row"))
        if not frames[-1].drop("log_p").equals(frames[0].drop("log_p")):
            raise UserError(f"{path}: not of the windows that {names[0]}.parquet beside it answers; {_maker(name)}")
    return frames


def _maker(name: str) -> str:
    """Which command makes the table of a predictor."""
    kind, _, baseline = name.rpartition("/")
    stage = {"habits": "habits", "base": "predictions@base", "sft": "predictions@sft", "dpo": "predictions@dpo"}.get(
        name) or {"baselines": f"stages/baselines/dvc.yaml:evaluate@{baseline}", "reference": "reference"}.get(kind)
    if not stage:
        return "fusion.beside in params.yaml names a table in that folder, such as reference/past"
    return f"`dvc repro {stage}` makes it, `dvc pull` fetches it"


def _fitted(splits: list[Split], where: np.ndarray) -> np.ndarray:
    known = splits[0].label != OUTSIDE
    # where nobody else is, those that are there choose, as for τ (stages.metrics.decisions.cross_fitted)
    where = where & known if (where & known).any() else known
    return fit_weights([split.log_p[where] for split in splits], splits[0].label[where])


def _by_half(valid: list[Split], first: np.ndarray) -> dict[bool, np.ndarray]:
    """For the users `first` (True) and for the others (False) the weights that the respective others chose."""
    return {half: _fitted(valid, np.isin(valid[0].user, first) != half) for half in (True, False)}


def _crossed(
    log_p: list[np.ndarray], user: np.ndarray, by_half: dict[bool, np.ndarray], first: np.ndarray
) -> np.ndarray:
    """Log-probabilities of the pool of parts `(N, C)`, each user's windows with the weights of their half."""
    found = np.empty_like(log_p[0])
    for half, weights in by_half.items():
        own = np.isin(user, first) == half
        if own.any():
            found[own] = pooled([each[own] for each in log_p], weights)
    return found


def _loss(log_p: np.ndarray, label: np.ndarray) -> float | None:
    return float(-log_p[np.arange(len(label)), label].mean()) if len(label) else None


def _write(pool: dict[str, Any], path: Path) -> None:
    with atomic_folder(path) as folder:
        write_json(folder / "fusion.json", pool)
        seal_folder(folder)


def _message(args: Any, frame: pl.DataFrame, pool: dict[str, Any], counts: dict[str, Any]) -> str:
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in pool["weights"].items())
    return f"fusion: weights {weights}, by {counts['valid_windows']:,} validation windows"


STAGE = Stage(
    "fusion", __doc__, fusion, Params,
    reads={"events": table("events"), "vocabulary": table("vocabulary"),
           "predictions": place("folder of the tables `predictions` that are pooled"),
           "models": place("folder of the models that made them")},
    writes={"out": table("predictions"), "weights": Kind("folder for the pool", write=_write), "counts": COUNTS},
    message=_message,
)

if __name__ == "__main__":
    STAGE.run()
