"""Accuracy against what masks say of the task, as a static SVG for light and dark pages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import mean, stdev

import numpy as np
from sklearn.isotonic import isotonic_regression

Scale = Callable[[float], float]
"""From a value to a position."""

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 34, 46
COLUMNS = 2
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; } .axis, .bar { stroke: #8c959f; } .grid { stroke: #d0d7de; }
.leader { stroke: #afb8c1; }
.mipp { fill: #0969da; } .other { fill: #bc4c00; } .control { fill: none; stroke: #57606a; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .axis, .bar { stroke: #7d8590; } .grid { stroke: #30363d; }
  .leader { stroke: #484f58; }
  .mipp { fill: #58a6ff; } .other { fill: #f0883e; } .control { stroke: #9da5ae; }
}
"""


@dataclass(frozen=True)
class Point:
    """One method: ``x`` and ``y`` have a number for each network. ``family`` gives the colour."""

    name: str
    family: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One plot: its title, what is on the vertical axis, and the points."""

    title: str
    vertical: str
    points: Sequence[Point]


def draw(panels: Sequence[Panel], most: float) -> str:
    """The picture; ``most`` is the largest x there can be, ``log K``."""
    rows = -(-len(panels) // COLUMNS)
    size = f'width="{COLUMNS * WIDTH}" height="{rows * HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
        f'viewBox="0 0 {COLUMNS * WIDTH} {rows * HEIGHT}" role="img">',
        "<title>Accuracy of pruned networks against the nats that their masks tell of the task"
        "</title>",
        f"<style>{STYLE}</style>",
    ]
    for index, panel in enumerate(panels):
        x, y = (index % COLUMNS) * WIDTH, (index // COLUMNS) * HEIGHT
        parts += [f'<g transform="translate({x} {y})">', *_panel(panel, most), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def spaced(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions as near to those wanted as ``gap`` between neighbours and the ends allow."""
    if not wanted:
        return []
    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(order))
    # less their steps, neighbours need only be in order: that is isotonic regression
    free = np.asarray(wanted)[order] - steps
    placed = np.empty(len(order))
    placed[order] = steps + isotonic_regression(free, y_min=low, y_max=high - steps[-1])
    return [float(position) for position in placed]


def _panel(panel: Panel, most: float) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(value: float) -> float:
        return LEFT + value / (1.05 * most) * (right - LEFT)

    def up(value: float) -> float:
        return bottom - value * (bottom - TOP)

    out = [f'<text class="title" x="{LEFT}" y="18">{escape(panel.title)}</text>']
    for percent in (0, 25, 50, 75, 100):
        y = up(percent / 100)
        kind = "axis" if percent == 0 else "grid"
        out.append(f'<line class="{kind}" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    for value in (0.0, most / 2, most):
        x = across(value)
        out.append(
            f'<line class="axis" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 4}"/>'
        )
        words = "log K" if value == most else f"{value:.1f}"
        out.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{words}</text>')
    middle = (LEFT + right) / 2
    out.append(
        f'<text x="{middle:.0f}" y="{bottom + 35}" text-anchor="middle">'
        "nats that masks tell of the task</text>"
    )
    out.append(
        f'<text transform="translate(14 {(TOP + bottom) / 2:.0f}) rotate(-90)" '
        f'text-anchor="middle">accuracy %, {escape(panel.vertical)}</text>'
    )
    spots = [(across(mean(p.x)), up(mean(p.y))) for p in panel.points]
    for left in (True, False):
        mine = [i for i, (x, _) in enumerate(spots) if (x < middle) == left]
        heights = spaced([spots[i][1] for i in mine], 14, TOP, bottom - 6)
        # names in a column beside the points, where no point is
        ends = [spots[i][0] for i in mine]
        column = (max(ends) + 26 if left else min(ends) - 26) if mine else 0.0
        for i, height in zip(mine, heights, strict=True):
            out += _point(panel.points[i], spots[i], (column, height), left, across, up)
    return out


def _point(
    point: Point,
    spot: tuple[float, float],
    name_at: tuple[float, float],
    left: bool,
    across: Scale,
    up: Scale,
) -> list[str]:
    """A point, its error bars, and its name, with a line to it."""
    x, y = spot
    sx = stdev(point.x) if len(point.x) > 1 else 0.0
    sy = stdev(point.y) if len(point.y) > 1 else 0.0
    low, high = across(max(0.0, mean(point.x) - sx)), across(mean(point.x) + sx)
    bottom, top = up(mean(point.y) - sy), up(mean(point.y) + sy)
    column, height = name_at
    sign, anchor = (1, "start") if left else (-1, "end")
    return [
        f'<line class="bar" x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}"/>',
        f'<line class="bar" x1="{x:.1f}" y1="{bottom:.1f}" x2="{x:.1f}" y2="{top:.1f}"/>',
        f'<line class="leader" x1="{x + sign * 6:.1f}" y1="{y:.1f}" '
        f'x2="{column - sign * 3:.1f}" y2="{height:.1f}"/>',
        f'<circle class="{point.family}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        f'<text x="{column:.1f}" y="{height + 4:.1f}" text-anchor="{anchor}">'
        f"{escape(point.name)}</text>",
    ]
