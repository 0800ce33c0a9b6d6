"""The plots' data and the numbers of their captions: results by model and by behaviour, and the training."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from stages.reports.answer import Verdict
from stages.reports.differences import DECISIONS
from stages.reports.drawing import Picture, filled
from stages.reports.inputs import MODELS, ROWS, Inputs
from stages.reports.labels import DECISION, METRIC, capitalised, row_names

MOST_NAMED = 60
"""Behaviours that a figure names, at most."""

_COMPARED = ("balanced.overall", "natural.rec_w")  # by the verdict


def figures(inputs: Inputs, verdict: Verdict) -> dict[str, Picture]:
    """All pictures that this run has the data for, by name."""
    sft, dpo = (capitalised(row_names(inputs)[row]) for row in ("sft", "dpo"))
    tables = {"frequencies": frequencies, "embeddings": embeddings, f"{inputs.model}/confusion": confusion,
              f"{inputs.model}/reliability": reliability}
    made = [
        rows(inputs, verdict), behaviors(inputs), coverage(inputs),
        *(draw(inputs, inputs.plots[name]) for name, draw in tables.items() if name in inputs.plots),
        curve(inputs, "sft_loss", f"{sft}: loss", {"loss": "training", "eval_loss": "validation"}),
        curve(inputs, "dpo_loss", f"{dpo}: loss", {"loss": "training"}),
        curve(inputs, "dpo_overall", f"{dpo}: balanced accuracy", {"eval_overall": "validation"}),
    ]
    return {picture.name: picture for picture in made if picture}


def rows(inputs: Inputs, verdict: Verdict) -> Picture:
    """Every model and baseline, plain and adjusted, in the two metrics of the verdict."""
    names = row_names(inputs)
    points = [
        {"row": capitalised(names[row]), "decision": DECISION[decision], "metric": METRIC[metric], "place": place,
         "chosen": (row, decision) == verdict.chosen, **vars(inputs.metric(row, decision, metric))}
        for place, metric in enumerate(_COMPARED) for row in ROWS if row in inputs.metrics for decision in DECISIONS
    ]
    return Picture("rows", _spec(inputs, "rows", points, "All rows of this run"), least_width=620)


def curve(inputs: Inputs, name: str, title: str, columns: Mapping[str, str]) -> Picture | None:
    """What a training stage logged, `stage_what`: columns of its history under the names of lines."""
    stage, _, what = name.partition("_")
    frame = inputs.history.get(stage)
    if frame is None:
        return None
    frame = frame.select("step", **{label: pl.col(key).cast(pl.Float64) for key, label in columns.items()
                                    if key in frame.columns})
    points = frame.unpivot(index="step", variable_name="rev", value_name="value").drop_nulls()
    if not points.height:
        return None
    spec = _spec(inputs, "history", points.to_dicts(), title, x="step", y="value", x_label="optimizer step",
                 y_label="accuracy" if what == "overall" else what)
    ends = points.group_by("rev", maintain_order=True).agg(pl.first("value"), last=pl.last("value"))
    return Picture(name, spec, {"title": title, "steps": points["step"].max(), "lines": ends.rows()})


def frequencies(inputs: Inputs, frame: pl.DataFrame) -> Picture:
    """Shares of the training events by rank, anchors and tail (the paper's Figure 1a)."""
    anchors = frame.filter(kind="anchor")
    spec = _spec(inputs, "frequencies", _named(frame, "training users"), "Behaviours by frequency")
    return Picture("frequencies", spec, {
        "anchors": anchors.height, "behaviors": frame.height, "anchor_share": anchors["share"].sum(),
        "largest": frame["share"].max(), "smallest": frame["share"].min()})


def embeddings(inputs: Inputs, frame: pl.DataFrame) -> Picture:
    """The behaviours' names as the untuned model sees them, in two dimensions (the paper's Figure 1b)."""
    spec = _spec(inputs, "embeddings", _named(frame, "untuned model"),
                 "Behaviours’ names as the untuned model sees them", x="x", y="y",
                 x_label="first principal component", y_label="second")
    return Picture("embeddings", spec, {"behaviors": frame.height}, 560)


def behaviors(inputs: Inputs) -> Picture | None:
    """Balanced accuracy of each behaviour, most frequent first, without tuning and of the model furthest along."""
    found = _of_models(inputs, "behaviors")
    if not found:
        return None
    shown = [model for model in found if model in ("base", inputs.model)] or [*found][:1]
    frame, half, names = found[shown[-1]], MOST_NAMED // 2, row_names(inputs)
    left = max(0, frame.height - MOST_NAMED)
    kept = pl.concat([frame.head(half), frame.tail(half)]) if left else frame
    points = [point for model in shown for point in _named(
        kept.select("behavior").join(found[model], on="behavior", how="left", maintain_order="left"), names[model])]
    facts = {"windows": kept["windows"].max() or 0, "left": left, "half": half, "both": 0}
    if len(shown) == 2:
        both = frame.join(found["base"], on="behavior").drop_nulls(["accuracy", "accuracy_right"])
        more = both["accuracy"] - both["accuracy_right"]
        facts |= {"both": both.height, "up": (more > 0).sum(), "down": (more < 0).sum()}
    return Picture("behaviors", _spec(inputs, "behaviors", points, "Accuracy by behaviour", x="accuracy", y="behavior",
                                      x_label="accuracy on the balanced test set"), facts)


def confusion(inputs: Inputs, frame: pl.DataFrame) -> Picture | None:
    """What the model furthest along predicts for what, on the balanced test set."""
    behaviors = inputs.plots[f"{inputs.model}/behaviors"].height
    order = inputs.plots[f"{inputs.model}/behaviors"]["behavior"].to_list()[:MOST_NAMED]
    points = _named(frame.filter(pl.all_horizontal(pl.col("actual", "predicted").is_in(order))),
                    row_names(inputs)[inputs.model])
    if not points:
        return None
    spec = _spec(inputs, "confusion", points, "What is predicted for what happened", x="predicted", y="actual",
                 x_label="predicted", y_label="what happened")
    for axis in ("x", "y"):  # both in the order of frequency, also for what is never predicted
        spec["spec"]["encoding"][axis] |= {"sort": order, "scale": {"domain": order}}
    return Picture("confusion", spec, {
        "right": (frame["actual"] == frame["predicted"]).mean(), "predicted": frame["predicted"].n_unique(),
        "behaviors": behaviors, "left": behaviors - len(order)}, 640)


def reliability(inputs: Inputs, frame: pl.DataFrame) -> Picture:
    """Accuracy against confidence, before and after the temperature."""
    points = _named(frame, row_names(inputs)[inputs.model])
    return Picture("reliability", _spec(inputs, "reliability", points, "Reliability", x="confidence", y="accuracy"))


def coverage(inputs: Inputs) -> Picture | None:
    """Error among the surest answers, by the share of windows answered."""
    found = {row_names(inputs)[model]: frame for model, frame in _of_models(inputs, "coverage").items()}
    if not found:
        return None
    points = [point for name, frame in found.items() for point in _named(frame, name)]
    half = {name: 1 - frame.filter(pl.col("coverage") >= 0.5)["accuracy"][0] for name, frame in found.items()}
    return Picture("coverage", _spec(inputs, "coverage", points, "Risk and coverage", x="coverage", y="accuracy"),
                   {"half": half})


def _of_models(inputs: Inputs, curve: str) -> dict[str, pl.DataFrame]:
    return {model: inputs.plots[f"{model}/{curve}"] for model in MODELS if f"{model}/{curve}" in inputs.plots}


def _named(frame: pl.DataFrame, name: str) -> list[dict[str, Any]]:
    """The rows of a table, `name` where DVC has a revision."""
    return frame.with_columns(rev=pl.lit(capitalised(name))).to_dicts()


def _spec(inputs: Inputs, template: str, points: Sequence[dict[str, Any]], title: str, **labels: str) -> dict[str, Any]:
    return filled(template, points, f"{title} (simulated log)" if inputs.simulated else title, **labels)
