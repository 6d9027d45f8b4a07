"""Figures as plain data: what ``page.js`` draws with Plotly in the reader's browser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mipp.report.styles import SYMBOLS, Style, plain_style
from mipp.report.tables import Summary, Table


@dataclass(frozen=True)
class Point:
    """One mark of a figure.

    Attributes:
        x: where it is; text on an axis of names.
        y: its height, with an error bar.
        hover: words about it, as HTML.
    """

    x: float | int | str
    y: Summary
    hover: str


@dataclass(frozen=True)
class Series:
    """Marks of one label, joined by a line.

    Attributes:
        label: in the legend.
        points: in the order of the line.
        style: None for the style that the label has in the report.
    """

    label: str
    points: tuple[Point, ...]
    style: Style | None = None

    def content(self) -> dict[str, Any]:
        """As JSON for the page."""
        made: dict[str, Any] = {
            "label": self.label,
            "x": [point.x for point in self.points],
            "y": [number(point.y.mean) for point in self.points],
            "n": [point.y.n for point in self.points],
            "below": [_or_none(point.y.below) for point in self.points],
            "above": [_or_none(point.y.above) for point in self.points],
            "hover": [point.hover for point in self.points],
        }
        if self.style is not None:
            made["style"] = looks(self.style)
        return made


@dataclass(frozen=True)
class Axis:
    """An axis of a drawing.

    Attributes:
        title: beside the axis.
        kind: how numbers are written and spaced. ``"names"`` has text, in the order of ``names``.
            ``"left"``: shares that are left, on a logarithmic scale. ``"removed"``: shares that
            are removed, spaced as what they leave.
        names: of an axis of names.
        zero: whether the axis starts at zero.
        reverse: whether it runs the other way.
    """

    title: str
    kind: Literal["percent", "number", "log", "names", "left", "removed"] = "number"
    names: tuple[str, ...] = ()
    zero: bool = False
    reverse: bool = False

    def content(self) -> dict[str, Any]:
        """As JSON for the page."""
        return {
            "title": self.title, "kind": self.kind, "names": list(self.names),
            "zero": self.zero, "reverse": self.reverse,
        }  # fmt: skip


@dataclass(frozen=True)
class View:
    """One drawing of a figure.

    Attributes:
        choice: one option of each of the figure's choices.
        x: the horizontal axis.
        y: the vertical axis.
        series: what is drawn.
        drawing: lines or bars.
        level: name and height of a line across.
        cuts: name and place of marks on the horizontal axis.
    """

    choice: tuple[str, ...]
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    drawing: Literal["lines", "bars"] = "lines"
    level: tuple[str, float] | None = None
    cuts: tuple[tuple[str, float], ...] = ()

    def content(self) -> dict[str, Any]:
        """As JSON for the page."""
        return {
            "choice": list(self.choice),
            "x": self.x.content(),
            "y": self.y.content(),
            "drawing": self.drawing,
            "level": self.level and {"name": self.level[0], "y": number(self.level[1])},
            "cuts": [{"name": name, "x": number(x)} for name, x in self.cuts],
            "series": [series.content() for series in self.series],
        }


@dataclass(frozen=True)
class Choice:
    """A row of buttons.

    Attributes:
        title: before the buttons.
        options: (key, words) of each.
    """

    title: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Figure:
    """Views that the reader switches between, and tables of the same numbers.

    Attributes:
        title: above the figure.
        caption: below it.
        choices: rows of buttons.
        views: one for each combination of options.
        tables: by the options, such as ``("retrained",)``, with which they are shown.
        made: how it was made, as (what, words).
        height: in pixels.
    """

    title: str
    caption: str
    choices: tuple[Choice, ...]
    views: tuple[View, ...]
    tables: Mapping[tuple[str, ...], Table] = field(default_factory=dict)
    made: Sequence[tuple[str, str]] = ()
    height: int = 440

    def content(self) -> dict[str, Any]:
        """As JSON for the page."""
        return {"height": self.height, "views": [view.content() for view in self.views]}


def bars(
    title: str, caption: str, what: str, shares: Sequence[tuple[str, float, str]], table: Table
) -> Figure:
    """A bar for each (name, share, words), with the table of the same rows."""
    points = tuple(
        Point(name, Summary(share, 1), f"<b>{name}</b><br>{words}") for name, share, words in shares
    )
    names = tuple(name for name, _, _ in shares)
    series = (Series(what, points, Style("mipp", 0, "solid", SYMBOLS[0], 4.0)),)
    view = View(
        (), Axis("", "names", names), Axis(what, "percent", zero=True), series, drawing="bars"
    )
    return Figure(title, caption, (), (view,), {(): table}, height=90 + 26 * len(names))


def curves_figure(title: str, caption: str, what: str, views: Sequence[View]) -> Figure:
    """Views that are chosen by group or by layer."""
    options = tuple((view.choice[0], view.choice[0]) for view in views)
    return Figure(title, caption, (Choice(what, options),), tuple(views))


MOST = 8
"""Up to so many curves are drawn together; of more, those that lose most."""
DECADES = 5
"""A logarithmic axis of losses reaches so far below the largest."""


def together(
    choice: str,
    x_title: str,
    curves: Sequence[tuple[str, int, float, Sequence[tuple[int, float | int]], Sequence[str]]],
) -> View:
    """Shares of what is removed and lost, one line each; the last place is the cut, a large mark.

    Of more than `MOST` curves it draws those that lose the largest shares at their cuts.

    Args:
        choice: the option that shows this view.
        x_title: of the horizontal axis.
        curves: of each, its name, the number that could be removed, nats before, places of
            (removed, lost), and words for each place.
    """

    def lost_at_cut(curve: tuple[str, int, float, Sequence[tuple[int, float | int]], Any]) -> float:
        _, _, whole, places, _ = curve
        return places[-1][1] / whole if whole > 0 else 0.0

    most = sorted(curves, key=lost_at_cut, reverse=True)[:MOST]
    lines, cuts = [], []
    for index, curve in enumerate([curve for curve in curves if curve in most]):
        name, before, nats_before, places, words = curve
        style, whole = plain_style(index), nats_before if nats_before > 0 else 1.0
        shares = above_floor([lost / whole for _, lost in places])
        points = [
            Point(gone / max(before, 1), Summary(share, 1), text)
            for (gone, _), share, text in zip(places, shares, words, strict=True)
        ]
        lines.append(Series(name, tuple(points[:-1]), style))
        cuts.append(Series(name, (points[-1],), replace(style, width=4.0)))
    x = Axis(x_title, "percent", zero=True)
    y = Axis("share of nats lost, log scale", "left")
    return View((choice,), x, y, (*lines, *cuts))


def name_of_together(everything: str, count: int) -> str:
    """The option that shows all curves, or those that lose most."""
    return everything if count <= MOST else f"the {MOST} that lose most"


def above_floor(values: Sequence[float]) -> list[float]:
    """Values for a logarithmic axis: zeros, and what is `DECADES` below the largest, at its foot.

    Where all are zero they stay.
    """
    floor = max(values, default=0.0) * 10.0**-DECADES
    return [max(value, floor) for value in values]


def looks(style: Style) -> dict[str, Any]:
    """A style as JSON for the page."""
    return {
        "family": style.family, "colour": style.colour, "dash": style.dash,
        "symbol": style.symbol, "width": style.width,
    }  # fmt: skip


def number(value: float | int) -> float:
    """The value to six digits, which is more than a figure can show."""
    return float(f"{value:.6g}")


def _or_none(value: float | None) -> float | None:
    return None if value is None else number(value)
