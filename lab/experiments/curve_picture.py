"""Accuracy against the MACs or the time that is left, as a static SVG for light and dark pages."""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import mean, stdev

from lab.experiments.synthetic_picture import spaced

Curve = Mapping[float, Sequence[float]]
"""Share that is left -> accuracy of each network."""

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 120, 40, 52
NAME_GAP = 17
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.page { fill: #ffffff; } .title { font-weight: 600; } .axis { stroke: #8c959f; }
.grid { stroke: #d8dee4; } path { fill: none; stroke-width: 2; } .bar { stroke-width: 1.5; }
.c0 { stroke: #0969da; } .c1 { stroke: #bc4c00; } .c2 { stroke: #1a7f37; } .c3 { stroke: #6e7781; }
.c0.dot { fill: #0969da; } .c1.dot { fill: #bc4c00; } .c2.dot { fill: #1a7f37; }
.c3.dot { fill: #6e7781; } .first { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117; } text { fill: #e6edf3; } .axis { stroke: #7d8590; }
  .grid { stroke: #30363d; }
}
"""


def draw(
    title: str,
    curves: Mapping[str, Curve],
    whole: float,
    *,
    left: str = "multiply-accumulates that are left",
    ticks: Sequence[float] | None = None,
) -> str:
    """The picture.

    Args:
        title: Above it.
        curves: Name -> curve, the most important first, at most four.
        whole: Accuracy of the networks before pruning.
        left: What the shares are of, below the axis.
        ticks: Shares that the axis names; None for those of the points.
    """
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    shares = sorted({share for curve in curves.values() for share in curve})
    low = min(mean(found) for curve in curves.values() for found in curve.values())
    floor, ceiling = int(10 * low) / 10, -(-int(100 * whole) // 10) / 10

    def across(share: float) -> float:
        return LEFT + share * (right - LEFT)

    def up(accuracy: float) -> float:
        return bottom - (accuracy - floor) / (ceiling - floor) * (bottom - TOP)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
    ]
    for tenth in range(round(10 * floor), round(10 * ceiling) + 1):
        y = up(tenth / 10)
        kind = "axis" if tenth == round(10 * floor) else "grid"
        out.append(f'<line class="{kind}" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10 * tenth}</text>')
    for share in (*(shares if ticks is None else ticks), 1.0):
        x = across(share)
        out.append(
            f'<line class="axis" x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}"/>'
        )
        out.append(
            f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{100 * share:.0f} %</text>'
        )
    out.append(
        f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"{escape(left)}</text>"
    )
    out.append(
        f'<text transform="translate(16 {(TOP + bottom) / 2:.0f}) rotate(-90)" '
        'text-anchor="middle">test accuracy (%)</text>'
    )
    names = list(curves)
    # names stand beside the points at the curve's largest share
    ends = [up(mean(curves[name][max(curves[name])])) for name in names]
    heights = spaced(ends, NAME_GAP, TOP, bottom)
    for number, (name, height) in enumerate(zip(names, heights, strict=True)):
        points = [(across(1.0), up(whole))]
        for share, found in sorted(curves[name].items(), reverse=True):
            x, y, spread = across(share), up(mean(found)), stdev(found) if len(found) > 1 else 0.0
            points.append((x, y))
            top, foot = up(mean(found) + spread), up(mean(found) - spread)
            bar = f'x1="{x:.1f}" y1="{foot:.1f}" x2="{x:.1f}" y2="{top:.1f}"'
            out.append(f'<line class="c{number} bar" {bar}/>')
            out.append(f'<circle class="c{number} dot" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        line = " L ".join(f"{at:.1f} {height_at:.1f}" for at, height_at in points)
        out.append(f'<path class="c{number}" d="M {line}"/>')
        key = right + 14
        first = ' class="first"' if number == 0 else ""
        out.append(
            f'<line class="c{number}" stroke-width="3" x1="{key}" y1="{height - 4:.1f}" '
            f'x2="{key + 18}" y2="{height - 4:.1f}"/>'
            f'<text{first} x="{key + 24}" y="{height:.1f}">{escape(name)}</text>'
        )
    x, y = across(1.0), up(whole)
    out.append(f'<circle class="c3 dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    return "\n".join([*out, "</svg>", ""])
