"""A study's rows and repetitions become experiments: each a set of overrides, the stages it asks for, and a name."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from stages.common.errors import UserError
from stages.params import Params
from stages.studies.definitions import LANGUAGE_MODELS, MODELS, REFERENCES, Overrides, Setting, Study, StudyRow
from stages.studies.overrides import PARAMS, SETTINGS, applied, budget_trials, of_budget, value_in
from stages.studies.pipeline import BASELINES, Pipeline, timing

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
        trials: settings that a baseline of it may try.
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
    """Experiments in the order in which they run, and which of them each repetition of each row reads.

    Attributes:
        by_row: by row and value of `study.repeat` one for each of the row's settings, its own first, its alternatives
            after. Each is of `experiments`, so that a row has the name of what is run for it.
    """

    study: Study
    rows: dict[str, StudyRow]
    experiments: list[Experiment]
    by_row: dict[str, dict[int, tuple[Experiment, ...]]]


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
    rows = [[*by_value.values()] for plan in plans for by_value in plan.by_row.values()]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*rows, fillvalue=()))
    order: dict[str, Experiment] = {}
    for experiment in itertools.chain.from_iterable(turns):
        order.setdefault(experiment.mark, experiment)
    return list(order.values())


def plan(
    study: Study, name: str, setting: Setting, workspace: Mapping[str, Any], pipeline: Pipeline, extra: Overrides,
    values: Sequence[int] | None = None, only: Sequence[str] = (), method: Mapping[str, Any] = MappingProxyType({}),
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
    trials = budget_trials(applied(files, shared, f"study {name}")[SETTINGS]) if pipeline.settings else 1
    asked: dict[tuple, dict[str, Any]] = {}
    by_row: dict[str, dict[int, list[tuple]]] = {row: {} for row in rows}
    for value, (row, entry) in itertools.product(values or study.values, rows.items()):
        where = f"study {name}, row {row}"
        _check(entry, pipeline, where)
        for alternative in [{}, *entry.alternatives][:trials]:
            wanted = {**shared, **entry.set, **alternative, study.repeat: value}
            if entry.decision == "adjusted" and _TAU not in entry.set:
                wanted[_TAU] = "validation"  # what the row says, whatever the others decide by
            changed = applied(files, wanted, where)
            overrides = {key: new for key, new in wanted.items() if value_in(files, key) != new}
            # a baseline is an experiment of its own: what fails with it takes no other row along
            alone = entry.model if entry.model in pipeline.baselines else ""
            identity = (alone, *sorted((key, repr(new)) for key, new in overrides.items()))
            found = asked.setdefault(identity, {"name": f"{name}-{row}-{value}", "overrides": overrides,
                                                "files": changed, "targets": {}})
            found["targets"] |= dict.fromkeys(_targets(entry, study))
            if identity in by_row[row].setdefault(value, []):
                raise UserError(f"{where}: alternatives: {alternative}: the row tries these values already; each "
                                "setting once")
            by_row[row][value].append(identity)
    made = {identity: _experiment(pipeline, found, trials) for identity, found in asked.items()}
    # settings that differ in what no target reads have one mark: the first of them is run for all
    kept: dict[str, Experiment] = {}
    for experiment in made.values():
        kept.setdefault(experiment.mark, experiment)
    run = {row: {value: tuple(kept[made[each].mark] for each in identities) for value, identities in by_value.items()}
           for row, by_value in by_row.items()}
    return Plan(study, rows, list(kept.values()), run)


def _targets(row: StudyRow, study: Study) -> list[str]:
    """The stages that a row's figures come from."""
    evaluated = "reference" if row.model in REFERENCES else f"evaluate@{row.model}"
    targets = [evaluated if row.model in (*MODELS, *REFERENCES) else f"{BASELINES}:{evaluated}"]
    targets += ["embeddings"] if study.groups else []
    return targets + ([timing(row.model)] if study.costs and row.model in LANGUAGE_MODELS else [])


def _check(row: StudyRow, pipeline: Pipeline, where: str) -> None:
    known = [*MODELS, *REFERENCES, *pipeline.baselines]
    if row.model not in known:
        raise UserError(f"{where}: model {row.model!r}: there is none; there are: {', '.join(known)}")
    for key in [key for overrides in (row.set, *row.alternatives) for key in overrides if of_budget(key)]:
        raise UserError(f"{where}: {key}: all rows have the same budget; set it for the study, a setting, or with -S")


def _experiment(pipeline: Pipeline, found: Mapping[str, Any], trials: int) -> Experiment:
    targets = tuple(found["targets"])
    keys = pipeline.keys(targets, found["files"])
    mark = hashlib.sha256("".join(keys[target] for target in sorted(targets)).encode()).hexdigest()[:_MARK]
    return Experiment(f"{found['name']}-{mark}".replace("_", "-"), mark, found["overrides"], targets, keys,
                      Params.model_validate(found["files"][PARAMS]), trials)
