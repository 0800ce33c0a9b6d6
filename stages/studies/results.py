"""A plan whose experiments have run becomes rows to compare, and the comparison a summary."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import polars as pl
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException

from stages.common import tables
from stages.common.draws import stream
from stages.common.errors import UserError
from stages.metrics.decisions import decided
from stages.metrics.splits import OpenTable
from stages.studies.compare import Comparison, Summary, summarise
from stages.studies.definitions import MODELS, REFERENCES, StudyRow, predictions_file
from stages.studies.pipeline import timing
from stages.studies.plan import Experiment, Plan
from stages.studies.repetitions import Repetition, RowResult
from stages.studies.repository import Finished

DETAILS, COUNTS, BASELINE_COUNTS = "data/evaluation/{}.json", "data/counts/{}.json", "data/counts/baselines/{}.json"
"""Files of an experiment: a model's metrics; what a stage counted; what fitting or timing a model took."""

COSTS = {
    "trials": "settings tried", "trained_targets": "targets given", "trained_parameters": "parameters trained",
    "fit_seconds": "fit, s", "latency_ms": "a window, ms",
}
"""Keys among a repetition's facts, and how people read them.

Targets given are those of the training sequences, whichever of their labels a row learns. What is fitted is the row's
own part: LLaRA, CoLLM and A-LLMRec are given a SASRec whose tuning counts in its own row. Of the pool it is the model
of habits and the language model together; what is pooled beside them counts in its own row.
"""

_FITTED_BY = {"habits": ("habits",), "base": (), "sft": ("sft",), "dpo": ("sft", "scoring", "selection", "dpo")}
"""The stages that a model of ours is fitted by, its data being there; the pool is by its parts' and `fusion`."""

_TEXTBOOK_TAU = 1.0
_TABLES_KEPT, _COMMITS_KEPT = 8, 32


class Results:
    """Files of experiments, out of Git and DVC's cache, else its remote, without touching the workspace."""

    def __init__(self, root: Path):
        self._files = lru_cache(_COMMITS_KEPT)(lambda commit: DVCFileSystem(str(root), rev=commit))
        self._tables: dict[tuple[str, str], pl.DataFrame] = {}

    def metrics(self, commit: str, path: str) -> dict[str, Any]:
        """A JSON file of an experiment."""
        return json.loads(self._read(commit, path))

    def table(self, name: str, commit: str, path: str) -> pl.DataFrame:
        """A table that DVC tracks, `path` within a tracked folder too; one that experiments share is read once."""
        try:
            known = name, self._files(commit).info(path).get("md5") or f"{commit}:{path}"
        except FileNotFoundError:
            known = name, f"{commit}:{path}"
        if known not in self._tables:
            self._tables[known] = tables.read_bytes(name, self._read(commit, path), Path(path))
            for oldest in list(self._tables)[:-_TABLES_KEPT]:
                del self._tables[oldest]
        return self._tables[known]

    def _read(self, commit: str, path: str) -> bytes:
        try:
            return self._files(commit).read_bytes(path)
        except (DvcException, FileNotFoundError):
            raise UserError(f"experiment {commit[:7]}: {path} is neither in it nor in DVC's cache or its remote; "
                            "`dvc exp remove` the experiment, and the study makes it again") from None


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
    study, rows, vocabularies = plan.study, [], {}
    # the reference comes first: its vocabulary is the one of a repetition
    for name, row in sorted(plan.rows.items(), key=lambda item: item[0] != study.reference):
        repetitions = []
        for value, settings in plan.by_row[name].items():
            # none while the row's own setting is missing
            found = [each for each in settings if each.mark in done] if settings[0].mark in done else []
            if not found:
                continue
            chosen = _chosen(found, done, results, row)
            facts: dict[str, Any] = {"chosen": settings.index(chosen), "tried": len(found)} if row.alternatives else {}
            if study.costs:
                facts |= costs(results, done[chosen.mark].commit, row, chosen, found, took)
            repetitions.append(_repetition(results, done[chosen.mark], row, value, facts))
            if value not in vocabularies:
                vocabularies[value] = results.table("vocabulary", done[chosen.mark].commit, "data/vocabulary.parquet")
        if repetitions:
            rows.append(RowResult(name, row.label or name, repetitions, row.paper or None))
        elif name == study.reference:
            raise UserError(f"{study.title}: nothing to compare with, no experiment of its row {name} is finished")
    rows.sort(key=lambda row: list(plan.rows).index(row.name))
    groups: dict[str, np.ndarray] | None = None
    if study.groups:
        value, first = next((value, done[settings[0].mark]) for value, settings in plan.by_row[study.reference].items()
                            if settings[0].mark in done)
        masks = tail_groups(results, first.commit, vocabularies[value])
        groups = {str(name): masks[name] for name in study.groups}
    comparison = Comparison(study.metrics, groups, resamples, resample_repetitions=study.repeat == "seed")
    return summarise(rows, dict(sorted(vocabularies.items())), study.reference, comparison, stream(seed, "study"))


def _chosen(found: list[Experiment], done: Mapping[str, Finished], results: Results, row: StudyRow) -> Experiment:
    """The setting that did best on validation, the earliest among equals."""
    if len(found) == 1:
        return found[0]
    return max(found, key=lambda each: _valid(_details(results, done[each.mark].commit, row), row)["overall"])


def _details(results: Results, commit: str, row: StudyRow) -> dict[str, Any]:
    """The metrics of the row's model in an experiment, as `stages.evaluate` or `stages.reference` wrote them."""
    found = results.metrics(commit, DETAILS.format(row.model))
    if not found:
        raise UserError(f"experiment {commit[:7]}: no baseline {row.model}; the oracle is for simulated logs only")
    return found


def _valid(metrics: Mapping[str, Any], row: StudyRow) -> dict[str, Any]:
    """The scores on validation windows, decided as the row is."""
    return metrics["valid"]["plain" if row.decision == "plain" else "adjusted"]


def _repetition(
    results: Results, finished: Finished, row: StudyRow, value: int, facts: Mapping[str, Any]
) -> Repetition:
    commit = finished.commit
    metrics = _details(results, commit, row)
    predictions = results.table("predictions", commit, f"data/{predictions_file(row.model)}")
    vocabulary = results.table("vocabulary", commit, "data/vocabulary.parquet")
    events = results.table("events", commit, "data/events.parquet")
    tau = {"plain": 0.0, "adjusted": metrics["adjusted"]["tau"], "textbook": _TEXTBOOK_TAU}[row.decision]
    valid = {} if row.decision == "textbook" else {"valid": _valid(metrics, row)}
    table = OpenTable.of(predictions, events, vocabulary)
    return Repetition(value, decided(table.frame(), vocabulary["share"].to_numpy(), tau), table.windows.user,
                      {"experiment": finished.name, "tau": tau, **valid, **facts}, table.windows.own,
                      table.windows.known)


def tail_groups(results: Results, commit: str, vocabulary: pl.DataFrame) -> dict[str, np.ndarray]:
    """Masks `(V,)` of the tail behaviours more and less like their nearest anchor than the median of the tail."""
    likeness = results.table("embeddings", commit, "data/embeddings.parquet")["likeness"].to_numpy()
    tail = ~vocabulary["is_anchor"].to_numpy()
    middle = np.nanmedian(likeness[tail])
    return {"near_tail": tail & (likeness > middle), "far_tail": tail & (likeness <= middle)}


def costs(
    results: Results, commit: str, row: StudyRow, chosen: Experiment, settings: Sequence[Experiment],
    took: Mapping[str, float],
) -> dict[str, float]:
    """By the keys of `COSTS`, those that are known; nothing of a row that is only counted.

    `fit_seconds` is of all settings tried, scoring and selection included for B-Tuning. `latency_ms` is the median of
    one window by itself, from the log to log-probabilities; of ours it is known of language models, where the study
    asked for it (`Study.costs`).

    Args:
        commit: of the experiment that is shown.
        chosen: that experiment.
        settings: the experiments of all settings tried.
        took: seconds by a stage's key, of what this machine has run.
    """
    if row.model in REFERENCES:
        return {}
    if row.model not in MODELS:
        facts = results.metrics(commit, BASELINE_COUNTS.format(row.model))
        return {"trials": facts["tuning"]["trials"]} | {key: facts[key] for key in COSTS if key in facts}
    keys = {each.keys[stage] for each in settings for part in _parts(row, each) for stage in _FITTED_BY[part]}
    keys |= {each.keys["fusion"] for each in settings if row.model == "fusion"}
    found: dict[str, Any] = {"trials": len(settings) if keys else 0, "trained_targets": 0, "trained_parameters": 0}
    for part in _parts(row, chosen):
        if part == "habits":
            facts = results.metrics(commit, COUNTS.format("predictions/habits"))
            found["trained_targets"] += facts["trained_targets"]
            found["trained_parameters"] += facts["trained_parameters"]
        elif _FITTED_BY[part]:
            found["trained_targets"] += results.metrics(commit, COUNTS.format("instructions"))["train"]["targets"]
            found["trained_parameters"] += results.metrics(commit, COUNTS.format(part))["trained_parameters"]
    if keys <= took.keys():
        found["fit_seconds"] = sum(took[key] for key in keys)
    if timing(row.model) in settings[0].targets:
        found["latency_ms"] = results.metrics(commit, BASELINE_COUNTS.format(row.model))["latency_ms"]
    return found


def _parts(row: StudyRow, experiment: Experiment) -> tuple[str, ...]:
    """The models that a row of ours is fitted as."""
    return ("habits", experiment.params.fusion.model) if row.model == "fusion" else (row.model,)
