"""How rows, metrics and numbers read on the page."""

from stages.reports.differences import Difference
from stages.reports.gather import Material
from stages.reports.markup import Html, join, tag
from stages.studies.table import MISSING, number

ROW = {
    "majority": "Majority", "last": "Last behaviour", "frequent": "Most frequent in the history",
    "markov": "Markov with hour and place", "base": "No tuning", "sft": "A-Tuning", "dpo": "B-Tuning",
    "oracle": "Oracle (the simulator’s own p*)", "oracle_adjusted": "Oracle, logits adjusted with τ = 1",
}
SHORT = ROW | {"markov": "Markov", "oracle": "the oracle", "base": "no tuning"}
START = {"anchors": "A-Tuning", "all": "SFT on all", "tail": "SFT on the tail",
         "tail_and_medium": "SFT on tail and medium", "none": "No SFT"}
"""What B-Tuning goes on from, by `sft.labels`; it is the paper's A-Tuning on anchors only."""
NATURAL = {"rec_w": "accuracy", "prec_w": "precision", "hr_at_3": "HR@3", "mrr": "MRR"}
BALANCED = {"overall": "overall", "head": "head", "medium": "medium", "tail": "tail", "hr_at_3": "HR@3"}
METRIC = {"natural.rec_w": "accuracy, natural"} | {
    f"balanced.{name}": f"{read}, balanced" for name, read in BALANCED.items()
}


def start(material: Material) -> str:
    """The first stage of tuning as it was done in this run."""
    return START[material.used["sft.labels"]]


def rows(material: Material) -> dict[str, str]:
    """`ROW`, the first stage called what it is in this run."""
    return ROW | {"sft": start(material)}


def shorts(material: Material) -> dict[str, str]:
    """As `rows`, for the middle of a sentence."""
    return SHORT | {"sft": start(material)}


def percent(share: float | None) -> str:
    """`43.7 %`; two significant digits where that is less than one tenth of a per cent."""
    if share is None:
        return MISSING
    value = 100 * share
    return f"{value:.2g} %" if 0 < value < 0.1 else f"{value:.1f} %"


def measured(value: float | None, low: float | None = None, high: float | None = None, best: bool = False) -> Html:
    """A cell: the value, and below it its interval where there is one."""
    parts = [tag("span", number(value), cls="best" if best else None)]
    if value is not None and low is not None and high is not None:
        parts.append(tag("span", f"{number(low)}–{number(high)}", cls="interval"))
    return join(parts)


def change(difference: Difference | None) -> Html:
    """A cell: a difference with its sign, and its interval."""
    if difference is None:
        return Html(MISSING)
    parts = [tag("span", number(difference.value, sign=True), cls="best" if difference.sign else None)]
    if difference.low is not None:
        parts.append(tag("span", f"{number(difference.low)} to {number(difference.high)}", cls="interval"))
    return join(parts)


def simulated_mark(simulated: bool) -> Html:
    """What stands beside every number of a simulated log."""
    return Html(" " + tag("span", "simulated log", cls="mark")) if simulated else Html("")
