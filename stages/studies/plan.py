"""A study's rows and repetitions become experiments: each a set of overrides, the stages it asks for, and a name."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from stages.common.errors import UserError
from stages.params import Params
from stages.studies.definitions import MODELS, REFERENCES, Overrides, Row, Setting, Study
from stages.studies.overrides import PARAMS, SETTINGS, applied, of_budget, trials, value_in
from stages.studies.pipeline import RIVALS, Pipeline, timing

_TAU = "evaluate.tau"
_MARK = 10  # hex digits of an experiment's name that say what its result follows from


@dataclass(frozen=True)
class Experiment:
    """One run of the pipeline.

    Attributes:
        name: readable, and ending in `mark`.
        mark: the same for experiments with the same results, whatever study asks for them.
        overrides: keys of params that differ from the workspace's, and their values.
        targets: stages asked for.
        keys: for each stage that these need, a key of all that its result follows from.
        params: the whole of params.yaml with the overrides applied.
        trials: settings that a rival of it may try.
    """

    name: str
    mark: str
    overrides: Overrides
    targets: tuple[str, ...]
    keys: Mapping[str, str]
    params: Params
    trials: int = 1


@dataclass(frozen=True)
class Plan:
    """Experiments in the order in which they run, and which of them each repetition of each row reads."""

    study: Study
    rows: dict[str, Row]
    experiments: list[Experiment]
    of_row: dict[str, dict[int, tuple[Experiment, ...]]]
    """By row and value of `study.repeat`: one for each setting that the row tries, its own first. Each is of
    `experiments`, so that a row has the name of what is run for it."""
    trials: int = 1
    """Settings that a rival may try."""


def stage_runs(experiments: Iterable[Experiment], finished: Iterable[Experiment] = ()) -> dict[str, list[Experiment]]:
    """For each stage those of `experiments` that have to run it: equal results are made once, and not again."""
    made = {key for experiment in finished for key in experiment.keys.values()}
    runs: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        for stage, key in experiment.keys.items():
            if key not in made:
                made.add(key)
                runs.setdefault(stage, []).append(experiment)
    return runs


def in_turn(plans: Iterable[Plan]) -> list[Experiment]:
    """Every experiment once, all studies' first repetitions before the second ones."""
    by_turn: dict[int, list[Experiment]] = {}
    for made in plans:
        for by_value in made.of_row.values():
            for turn, settings in enumerate(by_value.values()):
                by_turn.setdefault(turn, []).extend(settings)
    order: dict[str, Experiment] = {}
    for turn in sorted(by_turn):
        for experiment in by_turn[turn]:
            order.setdefault(experiment.mark, experiment)
    return list(order.values())


def plan(
    study: Study, name: str, setting: Setting, workspace: Mapping[str, Any], pipeline: Pipeline, extra: Overrides,
    values: Sequence[int] | None = None, only: Sequence[str] = (), method: Overrides = MappingProxyType({}),
) -> Plan:
    """The experiments of a study; all rows of one repetition come before the next repetition.

    Overrides apply in this order, the later ones win: method, setting, study, `extra`, row, repetition. Rows whose
    decision is `adjusted` have τ from validation.

    Args:
        workspace: params.yaml, nested.
        extra: overrides for all rows, from the command line.
        values: other values of `study.repeat` than the study's own.
        only: names of rows; none for all that need nothing special. The reference is always there.
        method: what a row is that says nothing else, so that another default recipe in params.yaml changes no study.

    Raises:
        UserError: a row is unknown, or its overrides name no key, a value out of range or a budget of its own.
    """
    if unknown := [row for row in only if row not in study.rows]:
        raise UserError(f"study {name}: there is no row {unknown[0]!r}; there are: {', '.join(study.rows)}")
    rows = {row: entry for row, entry in study.rows.items()
            if row == study.reference or (row in only if only else not entry.needs)}
    files = {PARAMS: workspace, SETTINGS: pipeline.settings}
    shared = {**method, **setting.set, **study.set, **extra}
    most = trials(applied(files, shared, f"study {name}")[SETTINGS]) if pipeline.settings else 1
    by_settings: dict[tuple, dict[str, Any]] = {}
    of_row: dict[str, dict[int, list[tuple]]] = {row: {} for row in rows}
    for value, row in itertools.product(values or study.values, rows):
        entry, where = rows[row], f"study {name}, row {row}"
        _check_model(entry.model, pipeline, where)
        _check_budget(entry, where)
        for further in [{}, *entry.tried][:most]:
            overrides = {**shared, **entry.set, **further, study.repeat: value}
            if entry.decision == "adjusted" and _TAU not in entry.set:
                overrides[_TAU] = "validation"  # what the row says, whatever the others decide by
            changed = applied(files, overrides, where)
            overrides = {key: wanted for key, wanted in overrides.items() if value_in(files, key) != wanted}
            # a rival is an experiment of its own: what fails with it takes no other row along
            rival = entry.model if entry.model in pipeline.rivals else ""
            settings = (rival, *sorted((key, repr(wanted)) for key, wanted in overrides.items()))
            found = by_settings.setdefault(settings, {"row": row, "value": value, "overrides": overrides,
                                                      "files": changed, "targets": []})
            found["targets"] += [target for target in targets_of(entry, study) if target not in found["targets"]]
            if settings in of_row[row].setdefault(value, []):
                raise UserError(f"{where}: tried: {further}: the row tries these values already; each setting once")
            of_row[row][value].append(settings)
    made = {settings: _experiment(name, pipeline, found, most) for settings, found in by_settings.items()}
    # settings that differ in what no target reads have one mark: the first of them is run for all
    kept: dict[str, Experiment] = {}
    for experiment in made.values():
        kept.setdefault(experiment.mark, experiment)
    return Plan(study, rows, list(kept.values()),
                {row: {value: tuple(kept[made[each].mark] for each in tried) for value, tried in by_value.items()}
                 for row, by_value in of_row.items()}, most)


def targets_of(row: Row, study: Study) -> list[str]:
    """The stages that a row's figures come from."""
    if row.model in REFERENCES:
        own = "reference"
    else:
        own = f"evaluate@{row.model}" if row.model in MODELS else f"{RIVALS}:evaluate@{row.model}"
    further = ["embeddings"] if study.groups else []
    if study.costs and row.model in MODELS:
        further.append(timing(row.model))
    return [own, *further]


def _check_model(model: str, pipeline: Pipeline, where: str) -> None:
    known = [*MODELS, *REFERENCES, *pipeline.rivals]
    if model not in known:
        raise UserError(f"{where}: model {model!r}: there is none; there are: {', '.join(known)}")


def _check_budget(row: Row, where: str) -> None:
    for key in [key for overrides in (row.set, *row.tried) for key in overrides if of_budget(key)]:
        raise UserError(f"{where}: {key}: all rows have the same budget; set it for the study, a setting, or with -S")


def _experiment(study: str, pipeline: Pipeline, found: dict[str, Any], most: int) -> Experiment:
    keys = pipeline.keys(found["targets"], found["files"])
    content = "".join(keys[target] for target in sorted(found["targets"]))
    mark = hashlib.sha256(content.encode()).hexdigest()[:_MARK]
    name = f"{study}-{found['row']}-{found['value']}-{mark}".replace("_", "-")
    return Experiment(name, mark, found["overrides"], tuple(found["targets"]), keys,
                      Params.model_validate(found["files"][PARAMS]), most)
