"""Names at the points of a scatter plot, placed so that they cover one another as little as they can."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from stages.reports.palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_NAME = 28
_SIZE = 8.5
_WIDTH, _HEIGHT = 0.56 * _SIZE, 1.15 * _SIZE  # of a letter, about
_POINT = 3.5
# from the point: sideways (-1 ends at it, 0 is centred, 1 begins at it) and up, in heights
_SIDES = [(0, 0.9), (0, -0.9), (1, 0), (-1, 0), (1, 0.8), (-1, 0.8), (1, -0.8), (-1, -0.8), (0, 1.9), (0, -1.9)]


def short(name: str) -> str:
    """A behaviour's name, cut where it is too long for an axis."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME - 1].rstrip()}…"


def name_points(plot: "Axes", frame: pl.DataFrame) -> None:
    """Write `behavior` at each point `x`, `y`, where it covers least of what is there already."""
    plot.figure.draw_without_rendering()  # only then the axes have their place
    points = plot.transData.transform(frame.select("x", "y").to_numpy())
    plot.figure.set_layout_engine("none")  # and now they keep it
    frame_box = plot.get_window_extent().extents
    taken = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    for (x, y), name in zip(points, map(short, frame["behavior"]), strict=True):
        boxes = [_box(x, y, len(name), *side) for side in _SIDES]
        costs = [_covered(box, taken) + 10 * _outside(box, frame_box) for box in boxes]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        left, bottom, right, top = boxes[best]
        end, align = {0: ((left + right) / 2, "center"), 1: (left, "left"), -1: (right, "right")}[_SIDES[best][0]]
        plot.annotate(name, (end, (bottom + top) / 2), xycoords="figure points", ha=align, va="center", fontsize=_SIZE,
                      color=LIGHT["ink"], parse_math=False, annotation_clip=False)


def _box(x: float, y: float, letters: int, side: float, up: float) -> tuple[float, float, float, float]:
    half, middle = letters * _WIDTH / 2, y + up * (_HEIGHT / 2 + _POINT)
    centre = x + side * (half + 2 * _POINT)
    return centre - half, middle - _HEIGHT / 2, centre + half, middle + _HEIGHT / 2


def _covered(box: tuple[float, ...], taken: list[tuple[float, ...]]) -> float:
    """The area of `box` that the others cover."""
    others = np.array(taken)
    wide = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    high = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    return float((wide.clip(0) * high.clip(0)).sum())


def _outside(box: tuple[float, ...], frame: np.ndarray) -> float:
    """How far `box` stands out of the plot, in pixels."""
    return sum(max(0.0, gap) for gap in (frame[0] - box[0], frame[1] - box[1], box[2] - frame[2], box[3] - frame[3]))
