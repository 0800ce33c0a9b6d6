"""How models, baselines, metrics and numbers read on the page: the one place for their names."""

from stages.metrics.registry import METRICS
from stages.reports.inputs import Inputs
from stages.studies.table import MISSING

ROW = {"majority": "majority", "last": "last behaviour", "frequent": "most frequent in the history",
       "markov": "Markov with hour and place", "past": "counts of the whole past", "habits": "habits alone",
       "base": "no tuning", "fusion": "habits and language model pooled", "oracle": "oracle (the simulator’s own p*)"}
SFT = {"anchors": "SFT on anchors", "all": "SFT on all", "tail": "SFT on the tail",
       "tail_and_medium": "SFT on tail and medium", "none": "no SFT"}
"""The first step of tuning by `sft.labels`; the paper's A-Tuning is the one on anchors only."""
_OF_ITSELF = ("natural.log_loss", "natural.ece", "natural.accuracy_at_50", "natural.accuracy_at_80", "natural.aurc")
"""Metrics of one test set, which need not say of which."""
DECISION = {"plain": "plain", "adjusted": "logits adjusted"}
METRIC = {name: metric.label + ("" if name in _OF_ITSELF else f", {metric.split}") for name, metric in METRICS.items()}


def row_names(inputs: Inputs) -> dict[str, str]:
    """The rows' names for the middle of a sentence; what was tuned is called what it was tuned on."""
    labels = inputs.used["sft.labels"]
    return ROW | {"sft": SFT[labels], "dpo": "DPO alone" if labels == "none" else f"DPO after {SFT[labels]}"}


def capitalised(name: str) -> str:
    """For the beginning of a line; what follows the first letter stays."""
    return name[:1].upper() + name[1:]


def column_head(column: tuple[str, str]) -> str:
    """Of a column of a table of metrics: a decision and a metric."""
    decision, metric = column
    return METRIC[metric] + ("" if decision == "plain" else f", {DECISION.get(decision, decision)}")


def percent(share: float | None) -> str:
    """`43.7 %`; two significant digits where that is less than one tenth of a per cent."""
    if share is None:
        return MISSING
    value = 100 * share
    return f"{value:.2g} %" if 0 < value < 0.1 else f"{value:.1f} %"
