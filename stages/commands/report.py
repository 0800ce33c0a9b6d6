"""One page of HTML about a run: the answer, metrics, plots, examples, what the data and the models are.

    python -m stages.report                              # report.html, of what `dvc repro` left in the workspace
    python -m stages.report --pictures metrics/pictures  # and the plots as PNG

The page holds all it needs and asks nothing of a network. No user, pseudonym or date is in it. A few test windows
are shown as examples where the log is simulated; `--examples` shows them, without places, of a real log too, where they
are events of real people. Look at them before the page goes to anyone.
"""

import argparse
from pathlib import Path

from stages.common.console import console
from stages.common.errors import run
from stages.common.files import atomic_file
from stages.reports import cards, drawing, figures
from stages.reports.answer import answer, question
from stages.reports.differences import differences
from stages.reports.drawing import Picture
from stages.reports.examples import cards as example_cards
from stages.reports.examples import examples
from stages.reports.gather import Material, Places, gather
from stages.reports.labels import simulated_mark
from stages.reports.markup import Html, page, paragraph, tag
from stages.reports.results import difference_table, metric_tables, study_tables
from stages.studies.repository import Commit, commit

TITLE = "BehaviorLM: what this run shows"


def report(material: Material, at: Commit, with_examples: bool | None = None) -> tuple[str, list[Picture]]:
    """The page, and the pictures in it.

    Args:
        with_examples: whether test windows are shown; None for only those of a simulated log.

    Raises:
        UserError: Matplotlib is not installed, or predictions and metrics are of different runs.
    """
    drawing.require_matplotlib()
    with_examples = material.simulated if with_examples is None else with_examples
    found = differences(material)
    with drawing.style():
        groups = {
            "behaviors": [figures.behaviors(material), figures.frequencies(material)],
            "confusion": [figures.confusion(material)], "embeddings": [figures.embeddings(material)],
            "sure": [figures.reliability(material), figures.coverage(material)],
            "training": figures.learning_curves(material),
        }
    drawn = {name: [picture for picture in group if picture] for name, group in groups.items()}
    sections: dict[tuple[str, str], list[Html]] = {
        ("answer", question(material)): answer(material, found),
        ("metrics", "Metrics"): [*metric_tables(material), *difference_table(material, found)],
        ("studies", "Studies"): study_tables(material.studies),
        ("behaviours", "Behaviour by behaviour"): _figures(
            drawn["behaviors"], drawn["confusion"], drawn["embeddings"]),
        ("confidence", "How far its confidence can be believed"): _figures(drawn["sure"]),
        ("training", "How training went"): _figures(drawn["training"]),
        ("examples", "Examples"): example_cards(material, examples(material)) if with_examples else [],
        ("data", "Data card"): cards.data_card(material),
        ("model", "Model card"): cards.model_card(material, at),
        ("reproduce", "How to make it again"): cards.reproduce(material, at),
    }
    content = page(TITLE, _lead(material), {key: parts for key, parts in sections.items() if parts})
    return content, [picture for group in drawn.values() for picture in group]


def _figures(*groups: list[Picture]) -> list[Html]:
    """Each group side by side where there is room."""
    return [tag("div", *(drawing.element(picture) for picture in group), cls="figures") for group in groups if group]


def _lead(material: Material) -> Html:
    ingest = material.counts["ingest"]
    about = (f"{ingest['events']:,} events of {ingest['users']:,} users, {ingest['behaviors']:,} behaviours "
             f"({ingest['format']}).")
    return paragraph(about, simulated_mark(material.simulated), cls="lead")


def main() -> None:
    args = _parser().parse_args()
    drawing.require_matplotlib()
    material = gather(Places(args.params, args.lock, args.data, args.metrics, args.models))
    content, pictures = report(material, commit(), args.examples)
    with atomic_file(args.out) as part:
        part.write_text(content, encoding="utf-8")
    console.print(f"report: {args.out}, {len(content.encode()) / 1e3:,.0f} kB, {len(pictures)} plots", markup=False)
    if args.pictures is not None:
        for picture in pictures:
            drawing.save_png(picture, args.pictures)
        console.print(f"pictures: {args.pictures}", markup=False)


def _parser() -> argparse.ArgumentParser:
    places = Places()
    parser = argparse.ArgumentParser(prog="python -m stages.report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write the plots there as PNG too")
    parser.add_argument("--examples", action=argparse.BooleanOptionalAction,
                        help="show a few test windows (default: only of a simulated log)")
    parser.add_argument("--params", type=Path, default=places.params, help="the settings (default: %(default)s)")
    parser.add_argument("--lock", type=Path, default=places.lock, help="what DVC last ran (default: %(default)s)")
    for name in ("data", "metrics", "models"):
        parser.add_argument(f"--{name}", type=Path, default=getattr(places, name), metavar="FOLDER",
                            help=f"the pipeline's folder `{name}` (default: %(default)s)")
    return parser


if __name__ == "__main__":
    run(main)
