"""One page of HTML about a run: which model to take, metrics, plots, examples, what the data and the models are.

    python -m stages.report                              # report.html, of what `dvc repro` left in the workspace
    python -m stages.report --pictures metrics/pictures  # and the plots as PNG

The page holds all it needs and asks nothing of a network. No user, pseudonym or date is in it. A few test windows
are shown as examples where the log is simulated; `--examples` shows them, without places, of a real log too, where they
are events of real people. Look at them before the page goes to anyone.
"""

import argparse
from pathlib import Path
from typing import Any

from stages.common.errors import run
from stages.reports import results
from stages.reports.answer import answer
from stages.reports.differences import differences
from stages.reports.drawing import Picture, require_library
from stages.reports.examples import SHOWN_EVENTS, examples
from stages.reports.figures import figures
from stages.reports.inputs import Inputs, Paths, read_inputs
from stages.reports.labels import DECISION, row_names
from stages.reports.page import arguments, render, write
from stages.studies.repository import Commit, commit


def report(inputs: Inputs, at: Commit, with_examples: bool | None = None) -> tuple[str, list[Picture]]:
    """The page, and the pictures in it.

    Args:
        with_examples: whether test windows are shown; None for only those of a simulated log.

    Raises:
        UserError: predictions and metrics are of different runs, or a library is not installed.
    """
    require_library()
    found = values(inputs, at, inputs.simulated if with_examples is None else with_examples)
    return render("report.html.j2", **found), list(found["pictures"].values())


def values(inputs: Inputs, at: Commit, with_examples: bool) -> dict[str, Any]:
    """All that the templates say, by the names that they have for it."""
    verdict = answer(inputs)
    return {
        "inputs": inputs, "ingest": inputs.counts["ingest"], "at": at, "names": row_names(inputs),
        "decisions": DECISION, "verdict": verdict, "pictures": figures(inputs, verdict),
        "differences": differences(inputs), "columns": results.columns(inputs), "best_rows": results.best_rows,
        "studies": inputs.studies, "days": results.days(inputs), "card": results.model_card(inputs),
        "with_examples": with_examples, "examples": examples(inputs) if with_examples else [],
        "shown_events": SHOWN_EVENTS,
    }


def main() -> None:
    parser = arguments("report", __doc__, "report.html")
    parser.add_argument("--examples", action=argparse.BooleanOptionalAction,
                        help="show a few test windows (default: only of a simulated log)")
    for name, default in vars(Paths()).items():
        parser.add_argument(f"--{name}", type=Path, default=default, help="where it lies (default: %(default)s)")
    args = parser.parse_args()
    require_library()
    paths = Paths(**{name: getattr(args, name) for name in vars(Paths())})
    write(*report(read_inputs(paths), commit(), args.examples), args)


if __name__ == "__main__":
    run(main)
