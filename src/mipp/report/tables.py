"""Tables as HTML that reads well without JavaScript; ``page.js`` sorts, turns and exports them."""

import math
from dataclasses import dataclass
from html import escape

NOTHING = "–"
"""Stands for what was not measured."""

LONG = 40
"""Longer text than this is broken into lines."""


@dataclass(frozen=True)
class Summary:
    """The mean of several values, and its error bar.

    Attributes:
        mean: of the values.
        n: number of values.
        below: length of the error bar downwards; None for no error bar, as with one value.
        above: the same upwards.
    """

    mean: float
    n: int
    below: float | None = None
    above: float | None = None

    @property
    def spread(self) -> float | None:
        """The longer half of the error bar."""
        if self.below is None or self.above is None:
            return None
        return max(self.below, self.above)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: to read.
        value: to sort by.
        spread: half of the error bar, for exports.
        n: number of values, for exports.
        best: whether it is the best of its column.
        near: whether it is within the error bar of the best.
        scale: factor on value and spread in exports, as in the text.
    """

    text: str = NOTHING
    value: float | None = None
    spread: float | None = None
    n: int | None = None
    best: bool = False
    near: bool = False
    scale: float = 1.0

    @property
    def is_words(self) -> bool:
        """Whether there is text and no number."""
        return self.value is None and self.text != NOTHING

    def html(self) -> str:
        """One ``td``."""
        words = ("words long" if len(self.text) > LONG else "words") * self.is_words
        kind = "best" if self.best else "near" if self.near else words
        data = {"value": self.value, "spread": self.spread}
        attributes = "".join(
            f' data-{name}="{self.scale * value:.8g}"' for name, value in data.items()
            if value is not None and math.isfinite(value)
        )  # fmt: skip
        attributes += "" if self.n is None else f' data-n="{self.n}"'
        attributes += f' class="{kind}"' if kind else ""
        return f"<td{attributes}>{escape(self.text)}</td>"


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    label: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        corner: what the rows are.
        columns: headings.
        rows: in order.
        note: a line above the table.
        is_methods: whether the rows are methods, which the reader can hide.
        name: of exported files.
    """

    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    is_methods: bool = True
    name: str = "table"

    def html(self) -> str:
        """The table alone; the note is for whoever puts it on a page."""
        cells = zip(*(row.cells for row in self.rows), strict=True)
        kinds = [' class="words"' * any(cell.is_words for cell in column) for column in cells]
        head = "".join(
            f'<th scope="col"{kind}>{escape(name)}</th>'
            for name, kind in zip(self.columns, kinds, strict=True)
        )
        body = "\n".join(self._row(row) for row in self.rows)
        return (
            f'<table data-name="{escape(self.name)}" data-note="{escape(self.note)}">\n'
            f'<thead><tr><th scope="col">{escape(self.corner)}</th>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table>"
        )

    def _row(self, row: Row) -> str:
        method = f' data-label="{escape(row.label)}"' if self.is_methods else ""
        cells = "".join(cell.html() for cell in row.cells)
        return f'<tr><th scope="row"{method}>{escape(row.label)}</th>{cells}</tr>'


def short(value: float | int, digits: int = 3) -> str:
    """``0.0123``, ``4.57``, ``431k``, ``2.29M``."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (1 - 0.5 * 10**-digits):
            return f"{value / size:#.{digits}g}".rstrip(".") + letter
    return f"{value:.{digits}g}"


def count(value: float | int, text: str | None = None) -> Cell:
    """A whole number, exactly."""
    return Cell(f"{value:,.0f}" if text is None else text, float(value))
