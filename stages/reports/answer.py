"""The question that a run answers, in sentences made of its numbers: does this run's tuning help on this log?"""

from typing import Any

from stages.reports import labels
from stages.reports.differences import Difference, Differences, metric
from stages.reports.gather import MODELS, Material, StudyResult
from stages.reports.labels import MISSING, number, rows, shorts, simulated_mark, start
from stages.reports.markup import Html, items, join, paragraph, table, tag
from stages.studies.table import difference as difference_text
from stages.studies.table import gap_closed

FEW_USERS = 30
"""Below so many test users a bootstrap over them is not to be believed."""

_OVERALL, _TAIL, _NATURAL = "balanced.overall", "balanced.tail", "natural.rec_w"
_RIVAL = {"model": "sft", "decision": "adjusted"}  # with sft.labels all

_VERDICTS = {
    (1, 1): "Yes: it is ahead of no tuning on the balanced test set and on the natural one.",
    (1, 0): "Yes, on the balanced test set; on the natural one no difference from no tuning is shown.",
    (1, -1): "Yes on the balanced test set, at a cost: on the natural one it is behind no tuning.",
    (0, 1): "On the natural test set only; on the balanced one no difference from no tuning is shown.",
    (0, 0): "Not shown: neither test set tells it from no tuning.",
    (0, -1): "No: the balanced test set does not tell it from no tuning, and on the natural one it is behind.",
    (-1, 1): "On the natural test set only; on the balanced one it is behind no tuning.",
    (-1, 0): "No: it is behind no tuning on the balanced test set, and not shown to differ on the natural one.",
    (-1, -1): "No: it is behind no tuning on both test sets.",
}


def question(material: Material) -> str:
    """What the answer is to; only tuning that begins with the anchors is the paper's."""
    labels_ = material.used["sft.labels"]
    if labels_ == "anchors":
        return "Does progressive tuning help on this log?"
    tuning = "B-Tuning alone" if labels_ == "none" else f"{start(material)}, then B-Tuning,"
    return f"Does {tuning} help on this log?"


def answer(material: Material, found: Differences) -> list[Html]:
    """The verdict, what it rests on, and what it does not say."""
    against = found.get(("plain", "dpo", "base"))
    parts = [paragraph(_verdict(material, against), simulated_mark(material.simulated), cls="verdict")]
    if "dpo" not in material.metrics or "base" not in material.metrics:
        return parts
    if counting := _against_counting(found):
        parts.append(paragraph(counting, cls="lead"))
    points = [point for point in _points(material, found) if point]
    parts.append(items([*points, _rival(material)]))
    if material.simulated and (way := _way(material)):
        parts.append(way)
    parts.append(paragraph(_caution(material, found), cls="muted"))
    return parts


def _verdict(material: Material, against: dict[str, Difference] | None) -> str:
    missing = [name for name in ("base", "dpo") if name not in material.metrics]
    if missing:
        return ("No answer yet: it takes the metrics of both no tuning and B-Tuning; run dvc repro "
                + " ".join(f"evaluate@{name}" for name in missing) + ".")
    if against is None:
        return ("The numbers are below, and what is sure among them is not known here: paired differences need the "
                "predictions. Run dvc pull, or dvc repro.")
    signs = tuple(against[name].sign if name in against else None for name in (_OVERALL, _NATURAL))
    return _VERDICTS.get(signs, "The differences are below; without intervals (evaluate.resamples is 0, or a test set "
                                "is empty) nothing can be said to be shown.")


def _against_counting(found: Differences) -> str:
    """Whether what counting can do is more, which a verdict on tuning alone would hide."""
    wanted = {"on the balanced test set": ("plain", _OVERALL), "on the natural one": ("plain", _NATURAL),
              "on the balanced one with both sides’ logits adjusted": ("adjusted", _OVERALL)}
    means = {1: "ahead", -1: "behind", 0: "not shown to differ", None: "without an interval"}
    told = []
    for where, (decision, name) in wanted.items():
        difference = found.get((decision, "dpo", "markov"), {}).get(name)
        if difference:
            told.append(f"{means[difference.sign]} {where}")
    return f"Against Markov, which counts and needs no language model, it is {', '.join(told)}." if told else ""


def _points(material: Material, found: Differences) -> list[Html | None]:
    before = start(material)
    points = [("All behaviours alike.", "plain", "dpo", "base", _OVERALL),
              ("The tail.", "plain", "dpo", "base", _TAIL),
              ("What it costs, or gains, on the natural set.", "plain", "dpo", "base", _NATURAL)]
    if material.used["sft.labels"] != "none":  # else that row is no tuning once more
        points += [(f"{before} alone, tail.", "plain", "sft", "base", _TAIL),
                   (f"{before} alone, natural set.", "plain", "sft", "base", _NATURAL),
                   (f"What B-Tuning adds to {before}.", "plain", "dpo", "sft", _OVERALL),
                   (f"With logits adjusted, what B-Tuning adds to {before}.", "adjusted", "dpo", "sft", _OVERALL)]
    points += [("Against counting.", "plain", "dpo", "markov", _OVERALL),
               ("Against counting, natural set.", "plain", "dpo", "markov", _NATURAL),
               ("With logits adjusted.", "adjusted", "dpo", "base", _OVERALL),
               ("With logits adjusted, against counting.", "adjusted", "dpo", "markov", _OVERALL)]
    return [_point(title, material, found, *what) for title, *what in points]


def _rival(material: Material) -> Html:
    """Where tuning once, on all behaviours, is measured: what trains more has to be ahead of that."""
    head = tag("strong", "Against training nothing more.")
    text = " The rival that trains nothing more, “SFT on all with adjusted logits”, is "
    there = [(study, name) for study in material.studies if _same_log(study, material)
             for name in study.settings if _is_rival(study, name)]
    if not there:
        return join([head, text + "a row of the studies; for it on this log, run ",
                     tag("code", "python -m stages.study recipes"), "."])
    # a row that others are compared with has no difference of its own
    study, name = min(there, key=lambda found: found[1] == found[0].summary.reference)
    of = {row.name: row for row in study.summary.rows}
    text += f"the row “{of[name].label}” of the study “{study.title}”"
    if name == study.summary.reference:
        return join([head, f"{text}, with which its other rows are compared (see Studies)."])
    key = _OVERALL if _OVERALL in study.summary.metrics else study.summary.metrics[0]
    difference = difference_text(of[name].metrics[key].difference)
    return join([head, f"{text}: its difference there from “{of[study.summary.reference].label}” is "
                       f"{difference} in {labels.METRIC.get(key, key)}."])


def _same_log(study: StudyResult, material: Material) -> bool:
    log = material.counts["ingest"]["format"]
    return study.simulated == material.simulated and study.log in (None, log)


def _is_rival(study: StudyResult, name: str) -> bool:
    of = study.settings[name]
    return (any(row.name == name for row in study.summary.rows) and of["set"].get("sft.labels") == "all"
            and all(of.get(key) == value for key, value in _RIVAL.items()))


def _point(
    title: str, material: Material, found: Differences, decision: str, first: str, second: str, name: str
) -> Html | None:
    """A sentence on one difference; None where a side was not measured."""
    if first not in material.metrics or second not in material.metrics:
        return None
    sides = [metric(material.metrics[row], decision, name) for row in (first, second)]
    if None in sides:
        return None
    called = shorts(material)
    names = called[first], called[second]
    text = f" {labels.METRIC[name].capitalize()}: {names[0]} {number(sides[0])}, {names[1]} {number(sides[1])}"
    if decision == "adjusted":
        taus = [f"{material.metrics[row]['adjusted']['tau']:g}" for row in (first, second)]
        text += (f" (τ {taus[0]} and {taus[1]}, each chosen on validation windows)"
                 if material.used["evaluate.tau"] == "validation" else f" (τ {taus[0]}, of evaluate.tau)")
    return join([tag("strong", title), text + _difference(found, decision, first, second, name, names[0])])


def _difference(found: Differences, decision: str, first: str, second: str, name: str, called: str) -> str:
    difference = found.get((decision, first, second), {}).get(name)
    if difference is None:
        return "."
    text = f"; difference {number(difference.value, sign=True)}"
    if difference.sign is None:
        return f"{text}, no interval."
    means = {1: f"{called} is ahead", -1: f"{called} is behind", 0: "no difference is shown"}
    excludes = "excludes 0" if difference.sign else "includes 0"
    return (f"{text} (95 % interval {number(difference.low)} to {number(difference.high)}), which {excludes}: "
            f"{means[difference.sign]}.")


def _way(material: Material) -> Html | None:
    """The table of shares, like compared with like: the oracle after adjustment is the ceiling of adjusted logits."""
    of = material.metrics
    if not {"markov", "oracle"} <= of.keys():
        return None
    columns = [("plain", _NATURAL, "oracle"), ("plain", _OVERALL, "oracle"), ("adjusted", _OVERALL, "oracle_adjusted")]
    columns = [column for column in columns if column[2] in of]

    def cell(row: str, decision: str, name: str, ceiling: str) -> str:
        top = metric(of[ceiling], "plain", name)
        gone = gap_closed(metric(of[row], decision, name), metric(of["markov"], decision, name), top)
        return MISSING if gone is None else f"{100 * gone:.0f} %".replace("-", "−")

    heads = [labels.METRIC[name] + (", logits adjusted" if decision == "adjusted" else "")
             for decision, name, _ in columns]
    caption = join([
        "The share of the way from Markov (0 %) to the oracle (100 %), whose probabilities are the simulator’s own; "
        "below 0 % is behind Markov. Shares have no interval here, and mean little where the way is short. "
        "Above 100 % is possible on the balanced set: there the likeliest behaviour is not the best answer, and only "
        "adjusted logits have the oracle for a ceiling.", simulated_mark(True),
    ])
    names = rows(material)
    body = [[names[row], *(cell(row, *column) for column in columns)] for row in MODELS if row in of]
    body.append(["The way itself: oracle less Markov", *(_apart(of, *column) for column in columns)])
    return table(caption, ["row", *heads], body)


def _apart(of: dict[str, Any], decision: str, name: str, ceiling: str) -> str:
    sides = metric(of[ceiling], "plain", name), metric(of["markov"], decision, name)
    return MISSING if None in sides else number(sides[0] - sides[1], sign=True)


def _caution(material: Material, found: Differences) -> str:
    natural, balanced = (material.metrics["dpo"][split] for split in ("natural", "balanced"))
    text = (
        f"Measured on {natural['windows']:,} natural windows of {natural['users']:,} test users and "
        f"{balanced['windows']:,} balanced windows of {balanced['users']:,}. “Overall” and “tail” are means over "
        "behaviours. "
    )
    if found:
        text += ("Intervals are bootstraps over these users, the same for both sides. They are of one training: what "
                 "another seed would have changed is not in them, and none is corrected for the number of comparisons.")
    targets = material.counts.get("instructions", {}).get("train", {}).get("targets")
    if targets and "markov" in material.metrics and material.used["sft.labels"] != "none":
        text += (f" Markov counts all {material.counts['windowing']['windows']['train']:,} training windows; "
                 f"{start(material)} learns from at most {targets:,} of them.")
    if min(natural["users"], balanced["users"]) < FEW_USERS:
        text += f" With fewer than {FEW_USERS} users in a test set, its intervals are themselves unsure."
    if material.simulated:
        text += " The log is simulated: people with habits of our making. It shows what the method does there."
    return text
