"""A grid of small line charts as SVG, readable on light and dark pages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

# mid tones, told apart by colour blind readers; the dashes tell them apart in grey
STYLES = (
    ("#3b8eea", ""),
    ("#e69f00", "6 3"),
    ("#12a57c", "2 3"),
    ("#cc79a7", "8 3 2 3"),
    ("#d55e00", "4 2"),
)
INK = "#808890"


@dataclass(frozen=True)
class Panel:
    """One chart: lines of (x, y) by name, on its own scale from ``low`` to ``high`` in both."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    low: float
    high: float


def draw(rows: Sequence[Sequence[Panel]], names: Sequence[str], x: str, y: str) -> str:
    """The grid, with the diagonal dotted in every panel; values outside are drawn at the edge."""
    side, gap, left, top = 120, 40, 48, 56
    width = left + len(rows[0]) * (side + gap)
    height = top + len(rows) * (side + gap) + 6
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}">'
    ]
    step = (width - left) / len(names)
    for k, name in enumerate(names):
        colour, dashes = STYLES[k]
        at = left + k * step
        out.append(_line([(at, 16), (at + 24, 16)], colour, dashes))
        out.append(f'<text x="{at + 28:.0f}" y="20">{escape(name)}</text>')
    for i, row in enumerate(rows):
        for j, panel in enumerate(row):
            out += _panel(panel, names, left + j * (side + gap), top + i * (side + gap), side)
    middle = top + len(rows) * (side + gap) / 2
    out.append(f'<text x="{left}" y="{height - 4}">{escape(x)}</text>')
    out.append(
        f'<text transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y)}</text>"
    )
    return "\n".join([*out, "</svg>"]) + "\n"


def _panel(panel: Panel, names: Sequence[str], x: float, y: float, side: float) -> list[str]:
    span = panel.high - panel.low

    def place(point: tuple[float, float]) -> tuple[float, float]:
        along, up = (min(max(v, panel.low), panel.high) for v in point)
        return x + side * (along - panel.low) / span, y + side * (1 - (up - panel.low) / span)

    out = [
        f'<text x="{x}" y="{y - 6}">{escape(panel.title)}</text>',
        f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="none" stroke="{INK}" '
        'stroke-opacity="0.6"/>',
        _line([place((panel.low,) * 2), place((panel.high,) * 2)], INK, "1 3"),
    ]
    for value in (0.0, panel.high):
        at = place((value, value))
        out.append(
            f'<text x="{at[0]:.0f}" y="{y + side + 13}" text-anchor="middle">{value:g}</text>'
        )
        out.append(f'<text x="{x - 4}" y="{at[1] + 4:.0f}" text-anchor="end">{value:g}</text>')
    for k, name in enumerate(names):
        if name in panel.lines:
            out.append(_line([place(point) for point in panel.lines[name]], *STYLES[k]))
    return out


def _line(points: Sequence[tuple[float, float]], colour: str, dashes: str) -> str:
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dashed}/>'
