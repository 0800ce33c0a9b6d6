"""A plan whose experiments have run becomes rows to compare, and the comparison a summary."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from stages.common.errors import UserError
from stages.ranking.decisions import decided
from stages.studies.collect import Results, metrics_of, predictions_of, tail_groups
from stages.studies.compare import Comparison, Summary, summarise
from stages.studies.definitions import Row
from stages.studies.experiments import Finished
from stages.studies.plan import Plan
from stages.studies.repetitions import Repetition, RowResult

_TEXTBOOK_TAU = 1.0


def compare(plan: Plan, done: Mapping[str, Finished], results: Results, resamples: int, seed: int) -> Summary:
    """The study's summary from its finished experiments.

    Args:
        done: the finished experiments by mark. Repetitions that are not among them are left out, and so are rows that
            have none.
        resamples: of the bootstrap.
        seed: of the bootstrap and the paired test.

    Raises:
        UserError: no experiment of the reference is finished; and see `Results` and `summarise`.
    """
    reference = plan.of_row[plan.study.reference]
    first = next(((value, done[e.mark]) for value, e in reference.items() if e.mark in done), None)
    if first is None:
        raise UserError(f"{plan.study.title}: nothing to compare with, no experiment of its row "
                        f"{plan.study.reference} is finished")
    rows, vocabularies = [], {}
    for name, row in plan.rows.items():
        repetitions = []
        for value, experiment in plan.of_row[name].items():
            if found := done.get(experiment.mark):
                repetitions.append(_repetition(results, found, row, value))
                vocabulary = results.table("vocabulary", found.commit, "data/vocabulary.parquet")
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
        facts["valid"] = metrics["valid"]["plain" if row.decision == "plain" else "adjusted"]
    return facts
