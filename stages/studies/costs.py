"""What a study's rows took: settings tried, targets, parameters trained, the time to fit them, and one window's."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.studies.collect import Results
from stages.studies.definitions import MODELS, REFERENCES, Row
from stages.studies.pipeline import timing
from stages.studies.plan import Experiment

COSTS = {
    "trials": "settings tried", "trained_targets": "targets given", "trained_parameters": "parameters trained",
    "fit_seconds": "fit, s", "latency_ms": "a window, ms",
}
"""Keys among a repetition's facts, and how people read them.

Targets given are those of the training sequences, whichever of their labels a row learns. What is fitted is the row's own
part: LLaRA, CoLLM and A-LLMRec are told a SASRec whose tuning counts in its own row.
"""

_FITTED_BY = {"base": (), "sft": ("sft",), "dpo": ("sft", "scoring", "selection", "dpo")}
"""The stages that a model of ours is fitted by, its data being there."""


def costs(
    results: Results, commit: str, row: Row, settings: Sequence[Experiment], took: Mapping[str, float]
) -> dict[str, float]:
    """By the keys of `COSTS`, those that are known; nothing of a row that is only counted.

    `fit_seconds` is of all settings tried, scoring and selection included for B-Tuning. `latency_ms` is the median of
    one window by itself, from the log to log-probabilities; of our own models only where the study asked for it
    (`Study.costs`).

    Args:
        commit: of the experiment that is shown.
        settings: the experiments of all settings tried.
        took: seconds by a stage's key, of what this machine has run.
    """
    if row.model in REFERENCES:
        return {}
    if row.model not in MODELS:
        facts = results.metrics(commit, f"metrics/baselines/{row.model}.json")
        return {"trials": facts["tuning"]["trials"]} | {key: facts[key] for key in COSTS if key in facts}
    keys = {each.keys[stage] for each in settings for stage in _FITTED_BY[row.model]}
    found: dict[str, Any] = {"trials": len(settings) if keys else 0, "trained_targets": 0, "trained_parameters": 0}
    if keys:
        found["trained_targets"] = results.metrics(commit, "metrics/instructions.json")["train"]["targets"]
        found["trained_parameters"] = results.metrics(commit, f"metrics/{row.model}.json")["trained_parameters"]
    if keys <= took.keys():
        found["fit_seconds"] = sum(took[key] for key in keys)
    if timing(row.model) in settings[0].targets:
        found["latency_ms"] = results.metrics(commit, f"metrics/baselines/{row.model}.json")["latency_ms"]
    return found
