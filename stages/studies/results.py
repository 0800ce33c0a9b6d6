"""A plan whose experiments have run becomes rows to compare, and the comparison a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from stages.common.errors import UserError
from stages.metrics.decisions import decided
from stages.studies.collect import Results, metrics_of, predictions_of, tail_groups
from stages.studies.compare import Comparison, Summary, summarise
from stages.studies.costs import costs
from stages.studies.definitions import Row
from stages.studies.experiments import Finished
from stages.studies.plan import Experiment, Plan
from stages.studies.repetitions import Repetition, RowResult

_TEXTBOOK_TAU = 1.0


def compare(
    plan: Plan, done: Mapping[str, Finished], results: Results, resamples: int, seed: int,
    took: Mapping[str, float] = MappingProxyType({}),
) -> Summary:
    """The study's summary from its finished experiments.

    Args:
        done: the finished experiments by mark. Repetitions of which the row's own setting is not among them are left
            out, and so are rows that have none; of the others, those settings compete that are.
        resamples: of the bootstrap.
        seed: of the bootstrap and the paired test.
        took: seconds by a stage's key, of what this machine has run.

    Raises:
        UserError: no experiment of the reference is finished; and see `Results` and `summarise`.
    """
    reference = plan.of_row[plan.study.reference]
    first = next(((value, done[found[0].mark]) for value, settings in reference.items()
                  if (found := _finished(settings, done))), None)
    if first is None:
        raise UserError(f"{plan.study.title}: nothing to compare with, no experiment of its row "
                        f"{plan.study.reference} is finished")
    rows, vocabularies = [], {}
    for name, row in plan.rows.items():
        repetitions = []
        for value, settings in plan.of_row[name].items():
            if found := _finished(settings, done):
                chosen = _chosen(found, done, results, row)
                finished = done[chosen.mark]
                # 0 is the row's own setting, n the nth of `tried`
                facts = {"chosen": settings.index(chosen), "tried": len(found)} if row.tried else {}
                if plan.study.costs:
                    facts |= costs(results, finished.commit, row, found, took)
                repetition = _repetition(results, finished, row, value)
                repetitions.append(replace(repetition, facts=repetition.facts | facts))
                vocabulary = results.table("vocabulary", finished.commit, "data/vocabulary.parquet")
                if name == plan.study.reference or value not in vocabularies:
                    vocabularies[value] = vocabulary
        if repetitions:
            rows.append(RowResult(name, row.label or name, repetitions, row.paper or None))
    groups = None
    if plan.study.groups:
        value, experiment = first
        masks = tail_groups(results, experiment.commit, vocabularies[value])
        groups = {name: masks[name] for name in plan.study.groups}
    comparison = Comparison(plan.study.metrics, groups, resamples, resample_repetitions=plan.study.repeat == "seed")
    vocabularies = dict(sorted(vocabularies.items()))
    return summarise(rows, vocabularies, plan.study.reference, comparison, np.random.default_rng(seed))


def _finished(settings: Sequence[Experiment], done: Mapping[str, Finished]) -> list[Experiment]:
    """The settings that have run; none while the row's own is missing."""
    return [each for each in settings if each.mark in done] if settings[0].mark in done else []


def _chosen(tried: list[Experiment], done: Mapping[str, Finished], results: Results, row: Row) -> Experiment:
    """The setting that did best on validation, the earliest among equals."""
    if len(tried) == 1:
        return tried[0]
    return max(tried, key=lambda each: _valid(metrics_of(results, done[each.mark].commit, row), row)["overall"])


def _repetition(results: Results, finished: Finished, row: Row, value: int) -> Repetition:
    commit = finished.commit
    metrics = metrics_of(results, commit, row)
    predictions = predictions_of(results, commit, row)
    share = results.table("vocabulary", commit, "data/vocabulary.parquet")["share"].to_numpy()
    tau = {"plain": 0.0, "adjusted": metrics["adjusted"]["tau"], "textbook": _TEXTBOOK_TAU}[row.decision]
    events = results.table("events", commit, "data/events.parquet")
    return Repetition(
        number=value, predictions=decided(predictions, share, tau), users=events["user"].gather(predictions["row"]),
        facts=_facts(metrics, row, tau, finished.name),
    )


def _facts(metrics: Mapping[str, Any], row: Row, tau: float, experiment: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"experiment": experiment, "tau": tau}
    if row.decision != "textbook":
        facts["valid"] = _valid(metrics, row)
    return facts


def _valid(metrics: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """The scores on validation windows, decided as the row is."""
    return metrics["valid"]["plain" if row.decision == "plain" else "adjusted"]
