"""Cells of numbers over seeds, with the best of each column marked."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from mipp.report.tables import Cell, Row, Summary, short


def percent(summary: Summary | None, digits: int = 1) -> Cell:
    """``98.3 ± 0.2``, in percent."""
    return number(summary, scale=100.0, digits=digits)


def number(summary: Summary | None, *, scale: float = 1.0, digits: int = 1) -> Cell:
    """Mean and error over seeds, times ``scale``."""
    if summary is None:
        return Cell()
    text = f"{scale * summary.mean:.{digits}f}"
    if summary.spread is not None:
        text += f" ± {scale * summary.spread:.{digits}f}"
    return Cell(text, summary.mean, summary.spread, summary.n, scale=scale)


def significant(summary: Summary | None, *, scale: float = 1.0, digits: int = 3) -> Cell:
    """The same to so many significant digits, for numbers of all sizes."""
    if summary is None:
        return Cell()
    text = short(scale * summary.mean, digits)
    if summary.spread is not None:
        text += f" ± {short(scale * summary.spread, 2)}"
    return Cell(text, summary.mean, summary.spread, summary.n, scale=scale)


Better = Literal["higher", "lower"]


def marked(cells: Sequence[Cell], better: Better) -> list[Cell]:
    """The cells, with the best marked and what is within the best's error bar of it as near.

    Nothing is marked where all are the same.
    """
    values = [cell.value for cell in cells if cell.value is not None]
    if len(set(values)) < 2:
        return list(cells)
    top = max(values) if better == "higher" else min(values)
    reach = max((c.spread or 0.0 for c in cells if c.value == top), default=0.0)
    return [
        cell if cell.value is None
        else replace(cell, best=cell.value == top, near=abs(cell.value - top) <= reach)
        for cell in cells
    ]  # fmt: skip


def marked_columns(rows: Sequence[Row], better: Better) -> tuple[Row, ...]:
    """The rows with the best cell of each column marked."""
    columns = [marked(column, better) for column in zip(*(r.cells for r in rows), strict=True)]
    return tuple(
        replace(row, cells=tuple(column[index] for column in columns))
        for index, row in enumerate(rows)
    )
