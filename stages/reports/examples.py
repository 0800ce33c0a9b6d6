"""A few predictions, right and wrong, as a person would look at them.

No user and no date is in them, and of a real log no place: weekday, hour, place and behaviour of a few events in a row
may be enough to know a person again.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from stages.common.draws import stream
from stages.reports.gather import Material
from stages.reports.labels import rows, simulated_mark
from stages.reports.markup import Html, paragraph, tag

GROUPS = ("head", "medium", "tail")
SHOWN_EVENTS = 4
TOP = 3

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True)
class Example:
    """A test window.

    Attributes:
        history: the latest events before it: when (weekday and hour), place, behaviour.
        when, place: of the event that is predicted; places are blank where the log is real.
        answers: the likeliest behaviours with their probabilities.
        truth, p_truth, rank: what happened, its probability and its place among the candidates.
        group: `head`, `medium` or `tail`.
    """

    history: list[tuple[str, str, str]]
    when: str
    place: str
    answers: list[tuple[str, float]]
    truth: str
    p_truth: float
    rank: int
    group: str

    @property
    def right(self) -> bool:
        return self.rank == 1


def examples(material: Material) -> list[Example]:
    """For each group of behaviours a window of the balanced test set predicted rightly, and one wrongly.

    A seeded choice. Empty without predictions of a model.
    """
    predictions = material.predictions.get(material.model)
    if predictions is None or material.events is None or material.vocabulary is None:
        return []
    vocabulary = material.vocabulary
    number = {name: place for place, name in enumerate(vocabulary["behavior"])}
    windows = predictions.filter(pl.col("behavior").is_in(list(number)), split="balanced").sort("row")
    order = stream(material.params.data_seed, "report examples").permutation(windows.height)
    wanted = {(group, right) for group in GROUPS for right in (True, False)}
    found: dict[tuple[str, bool], Example] = {}
    for place in order.tolist():
        if len(found) == len(wanted):
            break
        row, _, behavior, log_p = windows.row(place)
        example = _example(material, row, np.array(log_p), number[behavior])
        found.setdefault((example.group, example.right), example)
    return [found[key] for key in sorted(found, key=lambda key: (GROUPS.index(key[0]), not key[1]))]


def _example(material: Material, row: int, log_p: np.ndarray, truth: int) -> Example:
    events, vocabulary = material.events, material.vocabulary
    first = max(0, row - min(SHOWN_EVENTS, material.params.windowing.history))
    part = events.slice(first, row - first + 1)
    past = part.head(row - first).filter(pl.col("user") == part["user"][-1])
    order = np.argsort(-log_p, kind="stable")
    p, names = np.exp(log_p), vocabulary["behavior"]
    shown = material.simulated
    return Example(
        history=[(_when(time), place if shown and place else "", behavior)
                 for time, place, behavior in past.select("time", "place", "behavior").iter_rows()],
        when=_when(part["time"][-1]), place=part["place"][-1] or "" if shown else "",
        answers=[(names[int(n)], float(p[n])) for n in order[:TOP]],
        truth=names[truth], p_truth=float(p[truth]), rank=1 + int(np.flatnonzero(order == truth)[0]),
        group=vocabulary["group"][truth],
    )


def cards(material: Material, chosen: list[Example]) -> list[Html]:
    """The examples as markup; what to run where there are none."""
    if not chosen:
        return [paragraph("Examples need the predictions in ", tag("code", "data/predictions"), ": run ",
                          tag("code", "dvc pull"), " or ", tag("code", "dvc repro"), ".", cls="muted")]
    intro = paragraph(
        f"What {rows(material)[material.model]} answers on test windows of the balanced set, a seeded choice: for each "
        f"group one right and one wrong where there is one. The model saw up to {material.params.windowing.history} "
        f"events of history; the latest {SHOWN_EVENTS} are shown.", simulated_mark(material.simulated),
    )
    return [intro, tag("div", *(_card(example) for example in chosen), cls="examples")]


def _card(example: Example) -> Html:
    past = [tag("li", tag("span", _context(when, place), cls="muted"), behavior)
            for when, place, behavior in example.history]
    answers = [
        tag("li", tag("span", _marked(name, name == example.truth)), tag("span", f"{p:.3f}", cls="number"),
            cls="right" if name == example.truth else None)
        for name, p in example.answers
    ]
    if example.rank > len(example.answers):
        answers.append(tag("li", tag("span", f"{example.truth} ✓ (place {example.rank})"),
                           tag("span", f"{example.p_truth:.3f}", cls="number"), cls="right"))
    return tag(
        "article", tag("h3", f"{'Right' if example.right else 'Wrong'}, {example.group}"),
        tag("ol", *past, cls="history"), paragraph("Then, ", _context(example.when, example.place), ":", cls="muted"),
        tag("ol", *answers, cls="answers"), paragraph("✓ what happened", cls="muted"), cls="example",
    )


def _marked(name: str, truth: bool) -> str:
    return f"{name} ✓" if truth else name


def _context(when: str, place: str) -> str:
    return f"{when}, {place}" if place else when


def _when(time) -> str:
    return f"{_DAYS[time.weekday()]}, {time.hour:02d} h"
