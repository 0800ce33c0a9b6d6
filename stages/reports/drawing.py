"""Plots out of Vega-Lite templates, without a network: SVG that follows the page's colours, PNG in the light ones.

The templates in `.dvc/plots` are those that `dvc plots show` draws with; dvc-render fills them, as DVC does.
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc_render.vega import OPTIONAL_ANCHOR_RANGES, VegaRenderer
from markupsafe import Markup

from stages.common.errors import UserError
from stages.common.files import atomic_file, read_json

TEMPLATES = Path(__file__).parent / "templates"
DVC_TEMPLATES = Path(__file__).parents[2] / ".dvc" / "plots"
COLOURS = read_json(TEMPLATES / "colours.json")
"""The page's colours by scheme, `light` and `dark`, and name."""

_CONFIG = read_json(TEMPLATES / "vega.json")
_PNG_SCALE, _PNG_COLOURS = 2, 64
# allowed neither in XML nor, for the most part, in HTML
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Picture:
    """A plot: its PNG file and its ids in the page go by `name`, and `facts` are the numbers of its caption.

    Attributes:
        spec: Vega or Vega-Lite.
        least_width: pixels below which it scrolls instead of shrinking; 0 for one that fits a phone.
    """

    name: str
    spec: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    least_width: int = 0

    @property
    def svg(self) -> Markup:
        """An `svg` element in the page's colours, its ids its own."""
        ids: dict[str, int] = {}

        def own(tag: re.Match) -> str:  # only within tags: what the data says stays
            return re.sub(r'(\bid="|url\(#|href="#)([\w-]+)',
                          lambda found: f"{found[1]}{self.name}-{ids.setdefault(found[2], len(ids))}", tag[0])

        return Markup(re.sub(r"<[^>]*>", own, clean(self._drawn("svg"))))

    def save_png(self, folder: Path) -> None:
        """Write `folder/<name>.png`, with few colours and so a tenth of the size."""
        from PIL import Image

        with atomic_file(folder / f"{self.name}.png") as part, Image.open(io.BytesIO(self._drawn("png"))) as image:
            few = image.convert("RGB").quantize(_PNG_COLOURS, dither=Image.Dither.NONE)
            few.save(part, format="png", optimize=True)

    def _drawn(self, kind: str) -> Any:
        """`svg` text, its colours the page's variables, or `png` bytes."""
        import vl_convert

        text = json.dumps(self.spec | {"config": _CONFIG})
        for dvc, ours in zip(OPTIONAL_ANCHOR_RANGES["color"], _CONFIG["range"]["category"], strict=True):
            text = text.replace(dvc, ours)
        if kind == "png":
            text = re.sub(r"var\(--(\w+)\)", lambda found: COLOURS["light"].get(found[1], found[0]), text)
        language = "vega" if "/vega/" in self.spec.get("$schema", "") else "vegalite"
        scale = {"scale": _PNG_SCALE} if kind == "png" else {}
        try:
            return getattr(vl_convert, f"{language}_to_{kind}")(text, allowed_base_urls=[], **scale)
        except ValueError as error:
            raise UserError(f"plot {self.name!r} cannot be drawn: {error}") from None


def require_library() -> None:
    """Raises: UserError: what draws the plots is not installed."""
    try:
        import PIL  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise UserError(f"plots need {error.name}, which is not installed: pip install -e '.[report]'") from None


def filled(template: str, points: Sequence[dict[str, Any]], title: str, **labels: str) -> dict[str, Any]:
    """A template with its data, of `templates` or else of `.dvc/plots`; `labels` are x, y, x_label and y_label."""
    own = TEMPLATES / f"{template}.vl.json"
    path = own if own.exists() else DVC_TEMPLATES / f"{template}.json"
    return VegaRenderer(list(points), template, template=str(path), title=title, **labels).get_filled_template()


def clean(text: str) -> str:
    """Control characters become the replacement character."""
    return _CONTROL.sub("\ufffd", text)
