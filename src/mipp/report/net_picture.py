"""The net as a picture: a row for each group, as wide as it was, and what is left of it inside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mipp.records import GroupSummary

LEAST = 0.04
"""Width of the narrowest row, as a share of the widest."""
FAINT = 0.12
"""Strength of the colour where hardly anything is removed."""


@dataclass(frozen=True)
class Picture:
    """The widths of a plan, from inputs to outputs.

    A row is as wide as the square root of its units, so that narrow groups can be seen beside wide
    ones. The stronger the colour of what is removed, the larger its share.

    Attributes:
        title: above the picture.
        caption: below it.
        rows: in order.
    """

    title: str
    caption: str
    rows: tuple[GroupSummary, ...]

    def html(self) -> str:
        """Plain HTML, drawn by style sheets alone."""
        widest = max((row.units_before for row in self.rows), default=1)
        lines = "".join(_line(row, widest) for row in self.rows)
        return (
            f'<figure class="net"><h3>{escape(self.title)}</h3>'
            f'<div class="rows" role="list">{lines}</div>'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


def picture(groups: Sequence[GroupSummary], caption: str) -> Picture:
    """The picture of a plan; ``groups`` from inputs to outputs."""
    return Picture("The net, from inputs to outputs", caption, tuple(groups))


def _line(row: GroupSummary, widest: int) -> str:
    before, after = row.units_before, row.units_after
    width = max(math.sqrt(before / widest), LEAST)
    left = after / before if before else 1.0
    heat = FAINT + (1 - FAINT) * (1 - left)
    words = f"{before} → {after}"
    said = f"{row.name}: {after} of {before} units stay, {left:.0%}"
    return (
        f'<div class="row" role="listitem" title="{escape(said)}">'
        f'<span class="name">{breakable(row.name)}</span>'
        f'<span class="lane"><span class="full" style="width:{100 * width:.2f}%">'
        f'<span class="gone" style="opacity:{heat:.2f}"></span>'
        f'<span class="left" style="width:{100 * left:.2f}%"></span></span></span>'
        f'<span class="count">{words}</span></div>'
    )


def breakable(name: str) -> str:
    """The name as HTML that may break after its dots."""
    return escape(name).replace(".", ".<wbr>")
