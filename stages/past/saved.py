"""The folder of a model of habits: weights and counts as safetensors, names and choices as JSON, no user in it."""

import json
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save

from stages.common.checksums import check_folder, seal_folder
from stages.common.errors import UserError
from stages.common.files import atomic_folder
from stages.past.counting import Markov
from stages.past.habits import Habits
from stages.past.numbers import NAMES
from stages.past.population import Population
from stages.past.table import Table
from stages.past.weights import Weights
from stages.past.whole import WholePast

_WEIGHTS, _FACTS = "habits.safetensors", "habits.json"
_NETWORK = "network."


def write(habits: Habits, names: list[str], path: Path) -> None:
    """Write the model and the vocabulary's `names`, all or nothing."""
    people, markov = habits.people, habits.people.markov
    arrays = {f"{_NETWORK}{name}": value for name, value in habits.weights.arrays.items()}
    arrays["share"] = people.share
    levels = [level for level, concentration in markov.concentration.items() if np.isfinite(concentration)]
    for level in levels:
        table, name = markov.counts[level], "+".join(level)
        arrays |= {f"counts.{name}.{part}": _small(values) for part, values in (
            ("context", table.context), ("start", table.start), ("behavior", table.behavior),
            ("count", table.count))}
    facts = {
        "format": 1, "behaviors": names, "places": markov.places.to_list(), "events": people.events,
        "hidden": habits.weights.hidden, "numbers": list(NAMES),
        "concentration": {"+".join(level): markov.concentration[level] for level in levels},
        "whole_past": {level: value if np.isfinite(value) else None
                       for level, value in habits.whole.concentration.items()},
    }
    with atomic_folder(path) as folder:
        # `save_file` makes a file that its owner alone can read
        (folder / _WEIGHTS).write_bytes(save(arrays))
        (folder / _FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        seal_folder(folder)


def read(path: Path) -> tuple[Habits, list[str]]:
    """The model of a folder, and the names of its behaviours.

    Raises:
        UserError: there is none, it is damaged, or of another version.
    """
    if not (path / _FACTS).is_file():
        raise UserError(f"{path}: no {_FACTS}: no model of habits; `dvc repro habits` makes it, `dvc pull` fetches it")
    check_folder(path)
    facts, arrays = json.loads((path / _FACTS).read_text(encoding="utf-8")), load_file(path / _WEIGHTS)
    if facts.get("format") != 1 or facts["numbers"] != list(NAMES):
        raise UserError(f"{path}: made by another version of the model of habits; `dvc repro habits` makes it anew")
    size = len(facts["behaviors"])
    markov = Markov()
    markov.share, markov.places = arrays["share"], pl.Series(facts["places"], dtype=pl.String)
    markov.counts, markov.concentration = {}, {}
    for name, concentration in facts["concentration"].items():
        part = {part: arrays[f"counts.{name}.{part}"].astype(np.int64)
                for part in ("context", "start", "behavior", "count")}
        level = tuple(name.split("+"))
        markov.counts[level] = Table(**part, size=size)
        markov.concentration[level] = concentration
    network = {name.removeprefix(_NETWORK): value for name, value in arrays.items() if name.startswith(_NETWORK)}
    whole = WholePast()
    whole.markov, whole.events = markov, facts["events"]
    whole.concentration = {level: np.inf if value is None else value for level, value in facts["whole_past"].items()}
    people = Population(markov, facts["events"])
    return Habits(Weights(network), people, whole), facts["behaviors"]


def read_for(vocabulary: pl.DataFrame, path: Path) -> Habits:
    """The model of a folder, whose behaviours are those of the table `vocabulary`.

    Raises:
        UserError: as `read`; it was made with others.
    """
    habits, behaviors = read(path)
    if behaviors != vocabulary["behavior"].to_list():
        raise UserError(f"{path}: made with {len(behaviors)} behaviours that are not the vocabulary's "
                        f"{vocabulary.height}, in its order, so of another vocabulary; run `dvc repro habits`, or name "
                        "its own --vocabulary")
    return habits


def _small(values: np.ndarray) -> np.ndarray:
    """Whole numbers, 0 and up, in as few bytes as hold them."""
    values = values.astype(np.int64)
    return values.astype(next(kind for kind in (np.uint8, np.uint16, np.int32, np.int64)
                              if values.max(initial=0) <= np.iinfo(kind).max))
