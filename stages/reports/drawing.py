"""From Matplotlib's figures to SVG that follows the page's colours, and to PNG in the light ones."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.common.errors import UserError
from stages.common.files import atomic_file
from stages.reports.markup import Html, tag, text
from stages.reports.palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 72
"""A figure's point is the page's pixel."""

_SCALE = 2  # of PNG
_COLOURS = 64
_LARGEST = 1.25  # of the page's pictures, as a multiple of what they were drawn at
_SETTINGS = {
    "svg.fonttype": "none", "svg.hashsalt": "behaviorlm", "font.family": "sans-serif", "font.size": 10.5,
    "text.color": LIGHT["ink"], "axes.labelcolor": LIGHT["muted"], "axes.edgecolor": LIGHT["rule"],
    "xtick.color": LIGHT["rule"], "ytick.color": LIGHT["rule"], "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"], "axes.facecolor": "none", "figure.facecolor": "none", "axes.grid": True,
    "grid.color": LIGHT["rule"], "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "figure.titlesize": 11.5, "figure.titleweight": "bold", "legend.frameon": False,
    "legend.fontsize": 10, "lines.linewidth": 1.8, "lines.markersize": 4.5,
    "figure.constrained_layout.use": True, "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Picture:
    """A figure with the words around it.

    Attributes:
        name: of its PNG file, and of its ids in the page.
        label: what it shows, for who cannot see it.
        caption: what stands below it.
        least_width: pixels below which it scrolls instead of shrinking; 0 for one that fits a phone.
    """

    name: str
    label: str
    caption: Html
    figure: "Figure"
    least_width: int = 0


def require_matplotlib() -> None:
    """Raises: UserError: it is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError(
            "the report's plots need Matplotlib, which is not installed: pip install -e '.[report]'"
        ) from None


@contextmanager
def style() -> Iterator[None]:
    """Our settings for what is drawn and saved within."""
    import matplotlib

    # names in scripts that Matplotlib's own font lacks are drawn by the reader's browser
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing.*")
        yield


def axes(width: int, height: int, title: str, simulated: bool) -> tuple["Figure", "Axes"]:
    """A figure of so many pixels with one plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    plot = figure.add_subplot()
    # of the figure, not of the plot: long names of behaviours would leave it no room
    figure.suptitle(f"{title} (simulated log)" if simulated else title, x=0.01, ha="left")
    plot.tick_params(length=0)
    return figure, plot


def element(picture: Picture) -> Html:
    """The figure as an element of the page, its picture inline."""
    drawing = _svg(picture)
    width = picture.figure.get_figwidth() * DPI
    sizes = f"max-width:{_LARGEST * width:.0f}px;min-width:{picture.least_width}px"
    drawing = tag("div", drawing, style=sizes)
    if picture.least_width:
        drawing = tag("div", drawing, cls="scroll", tabindex=0, role="group", aria_label="figure, scrolls sideways")
    return tag("figure", drawing, tag("figcaption", picture.caption))


def save_png(picture: Picture, folder: Path) -> Path:
    """Write `folder/<name>.png` in the light colours, at twice the size of the page's."""
    path = folder / f"{picture.name}.png"
    buffer = io.BytesIO()
    with style(), atomic_file(path) as part:
        picture.figure.savefig(buffer, format="png", dpi=DPI * _SCALE, facecolor=LIGHT["paper"])
        _few_colours(buffer, part)
    return path


def _few_colours(buffer: io.BytesIO, path: Path) -> None:
    """Write a PNG with a palette, a third of the size."""
    from PIL import Image

    with Image.open(buffer) as image:
        image.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(path, format="png", optimize=True)


def _svg(picture: Picture) -> Html:
    """The figure as an `svg` element, without what a page with several of them cannot have twice."""
    buffer = io.StringIO()
    with style():
        picture.figure.savefig(buffer, format="svg", dpi=DPI, metadata={"Date": None})
    content = buffer.getvalue()
    content = content[content.index("<svg"):]
    content = re.sub(r"<metadata>.*?</metadata>|<style type=\"text/css\">.*?</style>|<!--.*?-->", "", content,
                     flags=re.DOTALL)
    # only within tags: what the data says stays
    content = re.sub(r"<[^>]*>", lambda match: _in_page(match[0], picture.name), content)
    content = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", content, count=1)
    content = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", content, count=1)
    label = text(picture.label)
    return Html(content.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip())


def _in_page(element: str, name: str) -> str:
    """A tag with ids of its own, the page's font and the page's colours."""
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element)
    element = re.sub(r"font-family: [^;\"]*;? ?", "", element)
    for colour, value in LIGHT.items():
        element = element.replace(value, f"var(--{colour})")
    return element
