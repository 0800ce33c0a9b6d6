"""Pages out of the templates: whatever is no markup already is data, and gets escaped."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from stages.common.console import console
from stages.common.files import atomic_file
from stages.metrics.caveats import caveats
from stages.metrics.registry import LOWER_IS_BETTER
from stages.reports import labels, results
from stages.reports.drawing import COLOURS, TEMPLATES, Picture, clean
from stages.studies import table
from stages.studies.table import gap_closed


def render(template: str, **values: Any) -> str:
    """A page as text; it holds all it needs and asks nothing of a network."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else clean(str(value)),
    )
    made.filters |= {
        "number": table.number, "signed": lambda value: table.number(value, sign=True), "estimate": table.estimate,
        "difference": table.difference, "metric_name": table.metric_name, "percent": labels.percent,
        "capitalised": labels.capitalised, "column_head": labels.column_head, "thousands": "{:,}".format,
        "legend": table.legend, "caveats": caveats, "parsed": results.parsed, "gap_closed": gap_closed,
    }
    made.tests |= {"in_paper": results.in_paper, "lower_is_better": LOWER_IS_BETTER.__contains__}
    return made.get_template(template).render(colours=COLOURS, **values)


def arguments(command: str, description: str | None, page: str) -> argparse.ArgumentParser:
    """A command's parser, with the options that `write` wants."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{command}", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(page), help="the page (default: %(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write the plots there as PNG too")
    return parser


def write(content: str, pictures: Sequence[Picture], args: argparse.Namespace) -> None:
    """Write the page and, where they are wanted, the pictures, and say so."""
    with atomic_file(args.out) as part:
        part.write_text(content, encoding="utf-8")
    console.print(f"page: {args.out}, {len(content.encode()) / 1e3:,.0f} kB, {len(pictures)} plots")
    if args.pictures is not None:
        for picture in pictures:
            picture.save_png(args.pictures)
        console.print(f"pictures: {args.pictures}")
