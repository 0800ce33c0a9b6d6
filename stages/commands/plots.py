"""Every plot that dvc.yaml declares, drawn without a network: one page of HTML, and PNG files.

    python -m stages.plots                          # plots.html, of the workspace
    python -m stages.plots --rev main HEAD          # of revisions beside each other, as `dvc plots diff` shows them
    python -m stages.plots --pictures FOLDER        # and each plot as PNG

`dvc plots show` makes a page of the same plots, which stays blank where its scripts cannot be fetched. Data and
templates are those of DVC's own command.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from stages.common.console import console
from stages.common.errors import UserError, run
from stages.reports.drawing import Picture, require_library
from stages.reports.page import arguments, render, write
from stages.studies.repository import dvc


def plots(revisions: Sequence[str] = (), targets: Sequence[str] = (), root: Path = Path()) -> list[Picture]:
    """The plots as DVC fills their templates.

    Args:
        revisions: Git revisions to lay over each other; none for the workspace.
        targets: files or names of plots; none for all.
        root: a folder of the repository.

    Raises:
        UserError: DVC refuses, or nothing is there to draw.
    """
    wanted = ["--targets", *targets] if targets else []
    words = ["diff", "--json", *wanted, "--", *revisions] if revisions else ["show", "--json", *targets]
    found = json.loads(dvc(root, "plots", *words))
    for error in found.get("errors", []):
        console.print(f"no plot of {error.get('name')} at {error.get('rev')}: {error.get('type')} {error.get('msg')}",
                      soft_wrap=True)
    made = [Picture(re.sub(r"\W+", "_", f"{name} {number}" if number else name), plot["content"], {"target": name})
            for name, drawn in found.get("data", {}).items() for number, plot in enumerate(drawn)
            if plot["type"] == "vega" and plot["content"]]
    if not made:
        raise UserError("`dvc plots` finds nothing to draw; run `dvc repro` first, or `dvc pull`")
    return made


def main() -> None:
    parser = arguments("plots", __doc__, "plots.html")
    parser.add_argument("targets", nargs="*", help="files or names of plots in dvc.yaml (default: all)")
    parser.add_argument("--rev", nargs="+", default=[], metavar="REVISION", help="Git revisions to compare")
    args = parser.parse_args()
    require_library()
    pictures = plots(args.rev, args.targets)
    write(render("plots.html.j2", pictures=pictures, revisions=args.rev or ["workspace"]), pictures, args)


if __name__ == "__main__":
    run(main)
