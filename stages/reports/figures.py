"""The plots: how training went, what comes out for each behaviour, and how sure the models are."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from stages.reports.drawing import Picture, axes
from stages.reports.gather import Material
from stages.reports.labels import number, percent, rows, shorts, simulated_mark, start
from stages.reports.markup import Html, join, tag
from stages.reports.naming import name_points, short
from stages.reports.palette import ANCHOR, LIGHT, OF_MODEL, TAIL

MOST_NAMED = 60
"""Behaviours that a figure names, at most."""

_SMALL = (350, 270)


def learning_curves(material: Material) -> list[Picture]:
    """What the training stages logged: loss, and what their looks at validation data found."""
    return [picture for picture in (
        _curve(material, "sft", {"loss": "training", "eval_loss": "validation"}, f"{start(material)}: loss", "loss"),
        _curve(material, "dpo", {"loss": "training"}, "B-Tuning: loss", "loss"),
        _curve(material, "dpo", {"eval_overall": "validation"}, "B-Tuning: balanced accuracy", "overall"),
    ) if picture]


def _curve(material: Material, stage: str, columns: Mapping[str, str], title: str, name: str) -> Picture | None:
    frame = material.history.get(stage)
    lines = {} if frame is None else {
        column: frame.select("step", column).drop_nulls() for column in columns if column in frame.columns
    }
    lines = {column: points for column, points in lines.items() if points.height}
    if not lines:
        return None
    figure, plot = axes(*_SMALL, title, material.simulated)
    words = []
    for (column, points), colour in zip(lines.items(), ("first", "second"), strict=False):
        plot.plot(points["step"], points[column], color=LIGHT[colour], marker="o", label=columns[column])
        words.append(f"{columns[column]} from {points[column][0]:.3f} to {points[column][-1]:.3f}")
    plot.set_xlabel("optimizer step")
    plot.set_ylim(bottom=min(0, *(points[column].min() for column, points in lines.items())))
    if len(lines) > 1:
        plot.legend()
    sentence = f"{', '.join(words)} in {max(points['step'][-1] for points in lines.values()):,} steps."
    return Picture(f"{stage}_{name}", f"{title} by optimizer step: {sentence}",
                   _caption(title, sentence, material.simulated), figure)


def frequencies(material: Material) -> Picture | None:
    """Shares of the training events by rank, anchors and tail (the paper's Figure 1a)."""
    frame = material.frequencies
    if frame is None:
        return None
    figure, plot = axes(*_SMALL, "Behaviours by frequency", material.simulated)
    plot.plot(frame["rank"], 100 * frame["share"], color=LIGHT["rule"], zorder=1)
    for kind, colour in (("anchor", ANCHOR), ("tail", TAIL)):
        part = frame.filter(kind=kind)
        plot.plot(part["rank"], 100 * part["share"], "o", color=LIGHT[colour], label=f"{kind} ({part.height})")
    plot.set_yscale("log")
    plot.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    plot.minorticks_off()
    plot.set_xlabel("rank")
    plot.set_ylabel("share of the training events")
    plot.legend()
    share = frame.filter(kind="anchor")["share"].sum()
    anchors = frame.filter(kind="anchor").height
    sentence = (f"{anchors} anchors of {frame.height} behaviours make {percent(share)} of the training events; the "
                f"most frequent {percent(frame['share'].max())}, the rarest {percent(frame['share'].min())}.")
    return Picture("frequencies", f"Share of the training events by rank: {sentence}",
                   _caption("Behaviours by frequency.", sentence, material.simulated), figure)


def embeddings(material: Material) -> Picture | None:
    """The behaviours' names as the untuned model sees them, in two dimensions (the paper's Figure 1b)."""
    frame = material.embeddings
    if frame is None:
        return None
    figure, plot = axes(720, 520, "Behaviours’ names as the untuned model sees them", material.simulated)
    for kind, colour in (("anchor", ANCHOR), ("tail", TAIL)):
        part = frame.filter(kind=kind)
        plot.plot(part["x"], part["y"], "o", color=LIGHT[colour], label=kind)
    plot.margins(0.12, 0.06)
    if frame.height <= MOST_NAMED:
        name_points(plot, frame)
    plot.set_xticklabels([])
    plot.set_yticklabels([])
    plot.set_xlabel("first principal component")
    plot.set_ylabel("second")
    plot.legend(loc="best")
    variance = material.counts.get("embeddings", {}).get("explained_variance")
    told = "" if variance is None else f" The plane holds {percent(variance)} of their variance."
    sentence = "Names close together are alike to the model before any tuning." + told
    return Picture("embeddings", f"Two principal components of the embeddings of {frame.height} behaviours’ names.",
                   _caption("Embeddings of the behaviours.", sentence, material.simulated), figure, 620)


def behaviors(material: Material) -> Picture | None:
    """Balanced accuracy of each behaviour, most frequent first, before and after tuning."""
    found = {model: curves["behaviors"] for model, curves in material.curves.items() if "behaviors" in curves}
    if not found:
        return None
    shown = [model for model in ("base", "dpo") if model in found] or [next(iter(found))]
    frame = found[shown[-1]]
    left = None if frame.height <= MOST_NAMED else frame.height - MOST_NAMED
    half = MOST_NAMED // 2
    kept = frame if left is None else pl.concat([frame.head(half), frame.tail(half)])
    place = np.arange(kept.height)
    figure, plot = axes(370, 70 + 17.5 * kept.height, "Accuracy by behaviour", material.simulated)
    for model, offset in zip(shown, (-0.16, 0.16) if len(shown) > 1 else (0.0,), strict=True):
        values = kept.select("behavior").join(found[model], on="behavior", how="left", maintain_order="left")
        colour = LIGHT[OF_MODEL[model]]
        plot.hlines(place + offset, values["low"], values["high"], color=colour,
                    alpha=0.45, linewidth=1.6)
        plot.plot(values["accuracy"], place + offset, "o", color=colour, label=rows(material)[model])
    names = [short(name) for name in kept["behavior"]]
    plot.set_yticks(place, names, parse_math=False)
    for tick, anchor in zip(plot.get_yticklabels(), kept["anchor"], strict=True):
        tick.set_color(LIGHT[ANCHOR if anchor else TAIL])
    plot.set_ylim(kept.height - 0.4, -0.6)
    plot.set_xlim(-0.03, 1.03)
    plot.grid(axis="y", visible=False)
    plot.set_xlabel("accuracy on the balanced test set")
    figure.legend(loc="outside lower left", ncols=2)
    ahead = _ahead(found, shown)
    cut = "" if left is None else (
        f" The {left} behaviours between the {half} most frequent and the {half} rarest are left out.")
    sentence = ("Most frequent first; names of anchors and of the tail have the colours of the frequency curve. "
                f"Lines are 95 % intervals of at most {kept['windows'].max() or 0} windows.{ahead}{cut}")
    return Picture("behaviors", f"Accuracy of each behaviour, most frequent first.{ahead}",
                   _caption("Accuracy by behaviour.", sentence, material.simulated), figure)


def _ahead(found: Mapping[str, pl.DataFrame], shown: list[str]) -> str:
    if shown != ["base", "dpo"]:
        return ""
    both = found["base"].select("behavior", before="accuracy").join(
        found["dpo"].select("behavior", after="accuracy"), on="behavior").drop_nulls()
    up, down = (both["after"] > both["before"]).sum(), (both["after"] < both["before"]).sum()
    return f" B-Tuning is above no tuning in {up} of {both.height} behaviours and below in {down}."


def confusion(material: Material) -> Picture | None:
    """What was predicted for what, on the balanced test set, of the row furthest along."""
    model = material.model
    frame = material.curves.get(model, {}).get("confusion")
    named = material.curves.get(model, {}).get("behaviors")
    if frame is None or named is None or not frame.height:
        return None
    order = {name: place for place, name in enumerate(named["behavior"])}
    cells = frame.group_by("actual", "predicted").len().with_columns(
        share=pl.col("len") / pl.col("len").sum().over("actual")
    ).filter(pl.col("actual").is_in(list(order)) & pl.col("predicted").is_in(list(order))).sort("actual", "predicted")
    size = len(order)
    figure, plot = axes(760, 740, f"What {rows(material)[model]} predicts for what happened", material.simulated)
    for actual, predicted, _, share in cells.iter_rows():
        colour = LIGHT["first" if actual == predicted else "second"]
        plot.bar(order[predicted], 0.94, 0.94, bottom=order[actual] - 0.47, color=colour, alpha=0.12 + 0.88 * share)
    if size <= MOST_NAMED:
        names = [short(name) for name in order]
        plot.set_xticks(range(size), names, rotation=90, fontsize=8.5, parse_math=False)
        plot.set_yticks(range(size), names, fontsize=8.5, parse_math=False)
    plot.set_xlim(-0.6, size - 0.4)
    plot.set_ylim(size - 0.4, -0.6)
    plot.set_xlabel("predicted")
    plot.set_ylabel("what happened")
    plot.grid(linewidth=0.3)
    right = frame.select((pl.col("actual") == pl.col("predicted")).mean()).item()
    used = frame["predicted"].n_unique()
    sentence = (f"Rows are behaviours of the balanced test set, most frequent first; a cell’s strength is its share of "
                f"the row. {percent(right)} of the windows lie on the diagonal; {used} of {size} behaviours are "
                "ever predicted.")
    return Picture("confusion", f"Confusion matrix of {rows(material)[model]}: {sentence}",
                   _caption("Confusion matrix.", sentence, material.simulated), figure, 640)


def reliability(material: Material) -> Picture | None:
    """Accuracy against confidence, before and after the temperature."""
    model = material.model
    frame = material.curves.get(model, {}).get("reliability")
    if frame is None or not frame.height:
        return None
    figure, plot = axes(*_SMALL, f"Reliability of {rows(material)[model]}", material.simulated)
    plot.plot([0, 1], [0, 1], color=LIGHT["third"], linewidth=1, linestyle=(0, (4, 3)))
    for which, colour in (("plain", "third"), ("calibrated", "second")):
        part = frame.filter(which=which)
        plot.plot(part["confidence"], part["accuracy"], color=LIGHT[colour], marker="o", label=which)
    plot.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    plot.legend(loc="upper left")
    values = material.metrics[model]
    calibrated = values["calibrated"]
    sentence = (f"Calibration error {number(values['natural']['ece'])}, and {number(calibrated['natural']['ece'])} "
                f"with temperature {calibrated['temperature']:g}. On the dashed line a model is as often right as "
                "it says.")
    return Picture("reliability", f"Reliability diagram of {rows(material)[model]}: {sentence}",
                   _caption("Reliability.", sentence, material.simulated), figure)


def coverage(material: Material) -> Picture | None:
    """Error among the surest answers, by the share of windows answered."""
    found = {model: curves["coverage"] for model, curves in material.curves.items() if "coverage" in curves}
    found = {model: frame for model, frame in found.items() if frame.height}
    if not found:
        return None
    figure, plot = axes(*_SMALL, "Risk and coverage", material.simulated)
    words = []
    for model, frame in found.items():
        plot.plot(frame["coverage"], 1 - frame["accuracy"], color=LIGHT[OF_MODEL[model]], label=rows(material)[model])
        half = frame.filter(pl.col("coverage") >= 0.5)["accuracy"][0]
        words.append(f"{shorts(material)[model]} {number(1 - half)}")
    plot.set(xlim=(0, 1), ylim=(0, None), xlabel="share of windows answered, surest first", ylabel="share of errors")
    plot.legend()
    sentence = f"Errors among the surer half of the natural windows: {', '.join(words)}."
    return Picture("coverage", f"Risk–coverage curves. {sentence}",
                   _caption("Risk and coverage.", sentence, material.simulated), figure)


def _caption(title: str, sentence: str, simulated: bool) -> Html:
    return join([tag("strong", title), f" {sentence}", simulated_mark(simulated)])
