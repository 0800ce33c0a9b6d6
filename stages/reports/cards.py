"""The data card, the model card and how to make it all again."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePath
from typing import Any

from stages.reports.gather import Material, shown
from stages.reports.labels import MISSING, percent, rows, simulated_mark, start
from stages.reports.markup import Html, code, facts, items, join, paragraph, table, tag
from stages.studies.repository import Commit
from stages.studies.view import public

_SPLITS = {"train": "training", "valid": "validation", "natural": "natural test", "balanced": "balanced test"}
_ADAPTERS = ("sft", "dpo")


def data_card(material: Material) -> list[Html]:
    """What the log is, what became of its rows, and how skewed it is. Neither users nor dates are named."""
    ingest, windowing = material.counts["ingest"], material.counts["windowing"]
    refused = ingest["refused"]
    origin = "simulated (people with habits, hours, places and triggers of our making)" if material.simulated else (
        f"{ingest['format']}, {ingest['files']:,} file{'s' * (ingest['files'] != 1)}")
    parts = [paragraph(simulated_mark(True)) if material.simulated else None, facts([
        ("Log", origin), ("Rows in", f"{ingest['rows']:,}"),
        ("Rows refused", f"{refused['rows']:,} ({percent(refused['share'])})"),
        ("Rows ignored", f"{ingest['ignored']:,}"), ("Events", f"{ingest['events']:,}"),
        ("Users", f"{ingest['users']:,}"),
        ("Events a user, mean", f"{ingest['events'] / max(ingest['users'], 1):,.0f}"),
        ("Behaviours", f"{ingest['behaviors']:,}"), ("Places", f"{ingest['places']:,}"),
        ("Period", _period(ingest["first"], ingest["last"])),
    ])]
    if refused["by_rule"]:
        parts.append(table("Refused rows, by the rule that refused them.", ["rule", "rows"],
                           [[rule, f"{count:,}"] for rule, count in refused["by_rule"].items()]))
    parts += [tag("h3", "Skew"), facts(_skew(material)), tag("h3", "Splits"), _splits(windowing)]
    return [part for part in parts if part is not None]


def _period(first: str, last: str) -> str:
    days = (datetime.fromisoformat(last).date() - datetime.fromisoformat(first).date()).days + 1
    return f"{days:,} day{'s' * (days != 1)}"


def _skew(material: Material) -> Iterator[tuple[str, str]]:
    counts = material.counts["windowing"]
    largest, smallest = counts["largest_share"], counts["smallest_share"]
    yield "Behaviours of the training users", f"{counts['behaviors']:,}"
    yield "Head, medium, tail", f"{counts['head']:,}, {counts['medium']:,}, {counts['tail']:,}"
    yield "Largest share", percent(largest)
    yield "Smallest share", percent(smallest)
    yield "Largest over smallest", f"{largest / smallest:,.0f}" if smallest else MISSING
    yield "Anchors", (f"{counts['anchors']:,} behaviours (above "
                      f"{percent(material.params.windowing.anchor_threshold)} of the training events)")
    if material.frequencies is not None:
        yield "Anchors’ share of the events", percent(material.frequencies.filter(kind="anchor")["share"].sum())


def _splits(counts: dict[str, Any]) -> Html:
    users = counts["users"]
    body = [[title, f"{counts['windows'].get(name, 0):,}", f"{users.get(name, users['test']):,}"]
            for name, title in _SPLITS.items()]
    outside = counts["out_of_vocabulary"]["windows"]
    short = counts["balanced_shortfall"]
    caption = (
        f"Users are split, so none is in two splits; both test sets draw from the same test users. "
        f"{users['too_short']:,} users are too short for a window; {outside:,} windows of validation and test users "
        f"have a behaviour that no training user has, and are left out; {len(short['had']):,} behaviours have "
        f"fewer than the {short['wanted']:,} balanced windows wanted."
    )
    return table(caption, ["split", "windows", "users"], body)


def model_card(material: Material, commit: Commit) -> list[Html]:
    """What the models are made of."""
    base, parts = material.base, []
    if base is None:
        parts.append(paragraph("The base model is not here: run ", tag("code", "dvc pull"), " or ",
                               tag("code", "dvc repro base"), ".", cls="muted"))
    else:
        local = base.get("source") == "folder"
        name = PurePath(str(base.get("name", ""))).name if local else base.get("name", MISSING)
        parts.append(facts([
            ("Base model", name), ("Source", base.get("source") or MISSING),
            ("Revision", base.get("revision") or MISSING), ("Licence", base.get("license") or MISSING),
            ("SHA-256 of the weights", base.get("sha256") or MISSING),
        ]))
    parts += _adapters(material)
    parts.append(paragraph(
        "Meant for ranking a person’s likely next behaviours out of this log’s vocabulary. Not meant for decisions "
        "about people; answers follow the log’s frequencies and habits, and rare behaviours are often missed (see "
        "above).",
    ))
    parts += _params(material)
    parts.append(facts([("Commit", commit.name or "not in a Git repository"),
                        ("Files that Git knows", "changed since that commit" if commit.dirty else "as in that commit")]
                       if commit.name else [("Commit", "not in a Git repository")]))
    return parts


def _adapters(material: Material) -> list[Html]:
    body, names = [], rows(material)
    for stage in _ADAPTERS:
        if found := material.counts.get(stage):
            on = (f"{found['sequences']:,} sequences, labels: {found['labels']}" if "sequences" in found
                  else f"{found['pairs']:,} pairs, objective: {found['objective']}" if "pairs" in found else MISSING)
            counted = (found.get(key) for key in ("steps", "best_step", "trained_parameters"))
            body.append([names[stage], on, *(MISSING if value is None else f"{value:,}" for value in counted)])
    if not body:
        return []
    lora = _ran(material, "lora")
    before = "the untuned model" if material.used["sft.labels"] == "none" else start(material)
    caption = join([
        "LoRA on all linear layers: " + ", ".join(f"{key} {shown(value)}" for key, value in lora.items())
        + f". B-Tuning goes on from {before}, and each adapter is loaded on the base model alone.",
        simulated_mark(material.simulated),
    ])
    return [tag("h3", "Adapters"), table(caption, ["adapter", "trained on", "steps", "kept step", "parameters trained"],
                                         body, words=2)]


def _ran(material: Material, section: str) -> dict[str, Any]:
    """The params of a section as they were when it ran, else as they stand."""
    return {key.partition(".")[2]: value for key, value in material.used.items() if key.startswith(f"{section}.")}


def changed(material: Material) -> list[str]:
    """Keys of params.yaml that differ from those the pipeline last ran with."""
    return [key for key, value in material.ran_with.items() if material.now.get(key, value) != value]


def _params(material: Material) -> list[Html]:
    used = public(material.used)  # a path may tell whose machine it was
    if material.base is not None and material.base.get("source") == "folder":
        used["model.name"] = PurePath(used["model.name"]).name
    lines = [f"{key}: {shown(value)}" for key, value in used.items()]
    parts = [tag("details", tag("summary", f"All {len(lines)} params"), code("\n".join(lines)))]
    if not material.ran_with:
        parts.append(paragraph("There is no dvc.lock, so these are the params of params.yaml as it stands; whether the "
                               "numbers are of them is not known.", cls="notice"))
    elif keys := changed(material):
        parts.append(paragraph(f"params.yaml has changed since the pipeline ran ({', '.join(keys)}): the numbers here "
                               "are of the old values. Run dvc repro.", cls="notice"))
    return [tag("h3", "Params"), *parts]


def reproduce(material: Material, commit: Commit) -> list[Html]:
    """The commands, and what they need besides."""
    at = [f"git checkout {commit.name}"] if commit.name else []
    commands = [*at, "python3.11 -m venv .venv && . .venv/bin/activate", "pip install -e '.[report]'", "dvc repro",
                "python -m stages.report"]
    needs = ["Python 3.11 and Git; a clone of this repository."]
    if material.simulated:
        needs.append("No log: it is simulated from data_seed.")
    else:
        needs.append("The log, where source.path in params.yaml says: it is not in Git. dvc pull fetches it where it "
                     "was put under DVC and pushed to a remote.")
    if commit.dirty:
        needs.append("The commit alone does not do it: files that Git knows differ from it. Commit them first.")
    needs.append("Other processors and library versions round differently, so trained numbers differ in their last "
                 "digits and may differ more after them.")
    return [code("\n".join(commands)), items(needs)]
