"""A plan whose experiments have run becomes rows to compare, and the comparison a summary."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from stages.common import tables
from stages.ranking.adjust import adjusted
from stages.studies.collect import Results, metrics_of, predictions_of, tail_groups
from stages.studies.compare import Comparison, Summary, summarise
from stages.studies.definitions import Row
from stages.studies.plan import Plan
from stages.studies.repetitions import Repetition, RowResult

_TEXTBOOK_TAU = 1.0


def compare(plan: Plan, commits: Mapping[str, str], results: Results, resamples: int, seed: int) -> Summary:
    """The study's summary from its finished experiments.

    Args:
        commits: of the finished experiments, by mark. Repetitions that are not among them are left out, and so are rows
            that have none.
        resamples: of the bootstrap.
        seed: of the bootstrap and the paired test.
    """
    rows, vocabularies = [], {}
    for name, row in plan.rows.items():
        repetitions = []
        for value, experiment in plan.of_row[name].items():
            if commit := commits.get(experiment.mark):
                repetitions.append(_repetition(results, commit, row, value, experiment.name))
                vocabulary = results.table("vocabulary", commit, "data/vocabulary.parquet")
                if name == plan.study.reference or value not in vocabularies:
                    vocabularies[value] = vocabulary
        if repetitions or name == plan.study.reference:
            rows.append(RowResult(name, row.label or name, repetitions, row.paper or None))
    groups = None
    if plan.study.groups:
        value, experiment = next((v, e) for v, e in plan.of_row[plan.study.reference].items() if e.mark in commits)
        found = tail_groups(results, commits[experiment.mark], vocabularies[value])
        groups = {name: found[name] for name in plan.study.groups}
    comparison = Comparison(plan.study.metrics, groups, resamples, resample_repetitions=plan.study.repeat == "seed")
    vocabularies = dict(sorted(vocabularies.items()))
    return summarise(rows, vocabularies, plan.study.reference, comparison, np.random.default_rng(seed))


def _repetition(results: Results, commit: str, row: Row, value: int, experiment: str) -> Repetition:
    metrics = metrics_of(results, commit, row)
    predictions = predictions_of(results, commit, row)
    share = results.table("vocabulary", commit, "data/vocabulary.parquet")["share"].to_numpy()
    tau = {"plain": 0.0, "adjusted": metrics["adjusted"]["tau"], "textbook": _TEXTBOOK_TAU}[row.decision]
    events = results.table("events", commit, "data/events.parquet")
    return Repetition(
        number=value, predictions=decided(predictions, share, tau), users=events["user"].gather(predictions["row"]),
        facts=_facts(metrics, row, tau, experiment),
    )


def decided(predictions: pl.DataFrame, share: np.ndarray, tau: float) -> pl.DataFrame:
    """Table `predictions` after logit adjustment with `tau`."""
    if not tau:
        return predictions
    log_p = adjusted(np.stack(predictions["log_p"].to_numpy()), share, tau)
    return predictions.with_columns(log_p=pl.Series(log_p.tolist(), dtype=tables.FLOATS))


def _facts(metrics: Mapping[str, Any], row: Row, tau: float, experiment: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"experiment": experiment, "tau": tau}
    if row.decision != "textbook":
        facts["valid"] = metrics["valid"]["plain" if row.decision == "plain" else "adjusted"]
    return facts
