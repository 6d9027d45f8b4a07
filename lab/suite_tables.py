"""Tables of what is recorded: a row for each method, mean and standard deviation over the seeds."""

import itertools
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lab.measurements import Item, Record
from lab.tables import TextTable

BIN = 0.05
"""Width of the bins of units removed in tables of collapse."""


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation of ``n`` values; ``sd`` is None for one alone and for shares."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Table:
    """``rows``: label and a cell, or None, for each of ``columns``. ``unit`` of all numbers."""

    title: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]

    def content(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "title": self.title,
            "unit": self.unit,
            "columns": list(self.columns),
            "rows": [
                {"label": label, "cells": [None if c is None else vars(c) for c in cells]}
                for label, cells in self.rows
            ],
        }

    @property
    def n(self) -> int | None:
        """Values behind each cell, where all cells have as many; else None."""
        found = {cell.n for _, cells in self.rows for cell in cells if cell}
        return found.pop() if len(found) == 1 else None

    def heading(self) -> str:
        """``accuracy retrained (%; n = 3)``."""
        return f"{self.title} ({self.unit}{'' if self.n is None else f'; n = {self.n}'})"

    def text(self) -> TextTable:
        """Labels and cells as words; how many values there are only where that differs."""
        counted = self.n is None
        rows = [[label, *(in_words(c, counted) for c in cells)] for label, cells in self.rows]
        return TextTable(self.heading(), ("", *self.columns), rows)


Value = Callable[[Record], float | None]


@dataclass(frozen=True)
class Measure:
    """What a table shows: ``scale`` times the value, in a ``unit``.

    ``share``: the value is 0 or 1, so that the mean says all and a standard deviation nothing more.
    """

    title: str
    unit: str
    value: Value
    scale: float | int = 1
    share: bool = False


def tables(records: Sequence[Record]) -> list[Table]:
    """All tables of a suite, for what there is so far."""
    mine = [record for record in records if record.item.kind != "parent"]
    found: list[Table] = []
    for kind in dict.fromkeys(record.item.kind for record in mine):
        of_kind = [record for record in mine if record.item.kind == kind]
        grounds = dict.fromkeys(_ground(record.item) for record in of_kind)
        for ground in grounds:
            here = [record for record in of_kind if _ground(record.item) == ground]
            for measure in _measures(kind, here):
                table = _table(f"{ground}: {measure.title}", measure, here, _column(kind))
                found += [table] if table.columns else []
    return found


def as_json(tables: Iterable[Table]) -> list[dict[str, Any]]:
    """All tables as plain data."""
    content: list[dict[str, Any]] = json.loads(json.dumps([table.content() for table in tables]))
    return content


def in_words(cell: Cell | None, counted: bool = True) -> str:
    """``91.2 ± 0.3 (3)``, the last where it is ``counted``."""
    if cell is None:
        return "–"
    certain = cell.mean == 0 and not cell.sd
    digits = 0 if certain or abs(cell.mean) >= 1000 else 1 if abs(cell.mean) >= 10 else 2
    spread = "" if cell.sd is None else f" ± {cell.sd:.{digits}f}"
    return f"{cell.mean:.{digits}f}{spread}{f' ({cell.n})' * counted}"


def _ground(item: Item) -> str:
    """What rows of one table have in common, in words."""
    stage = "at initialisation" if item.stage == "init" else item.stage
    words = [item.net.label, stage]
    if item.fraction is not None:
        words.append(f"{100 * item.fraction:g} % of the images")
    if item.imbalance is not None:
        words.append(f"classes 1:{item.imbalance}")
    words.append(item.deformation)
    return ", ".join(filter(None, words))


def _label(item: Item) -> str:
    method = item.method.label if item.method else ""
    if item.initial in (None, "pruned"):
        return method
    how = {"epochs": "equal epochs", "compute": "equal compute"}.get(str(item.training), "")
    return f"{method}'s {item.initial} widths from scratch, {how}".replace("plan widths", "widths")


def _column(kind: str) -> Callable[[Record], str]:
    return _bin if kind == "collapse" else _budget


def _budget(record: Record) -> str:
    return record.item.budget or ""


def _bin(record: Record) -> str:
    """The bin of units removed, ``70-75 %``."""
    left = record.result.left
    removed = 0.0 if left is None else 1 - left.units
    first = min(int(removed / BIN + 1e-9), round(1 / BIN) - 1)
    return f"{100 * BIN * first:.0f}-{100 * BIN * (first + 1):.0f} %"


def _measures(kind: str, records: Sequence[Record]) -> list[Measure]:
    accuracy = [
        Measure(f"{what}{words}", "%", _moment(where, moment), 100)
        for where, what in (
            ("accuracy", "accuracy "), ("balanced_accuracy", "balanced accuracy "),
        )
        for moment, words in (
            ("at_once", "at once"), ("refit", "refitted"), ("retrained", "retrained"),
        )
    ]  # fmt: skip
    seconds = Measure("time to choose the units", "s", lambda r: r.result.seconds.plan)
    if kind == "collapse":
        return [
            Measure("runs with an empty layer", "%", _collapsed, 100, share=True),
            Measure("runs whose net cannot be trained", "%", _untrainable, 100, share=True),
        ]
    if kind == "layers":
        names = dict.fromkeys(name for r in records for name in (r.result.widths or {}))
        return [
            Measure(f"share of units left in {name}, over that of the net", "ratio", _ratio(name))
            for name in names
        ]
    if kind == "cost":
        peak = Measure("memory beyond net and images", "MiB", _memory, 2**-20)
        return [seconds, peak]
    kept = [Measure("information kept", "% of nats", _kept, 100)] if kind == "ablation" else []
    return [*accuracy, *kept, seconds]


def _table(
    title: str, measure: Measure, records: Sequence[Record], column: Callable[[Record], str]
) -> Table:
    cells: dict[tuple[str, str], list[float]] = {}
    for record in records:
        value = measure.value(record)
        if value is not None:
            key = _label(record.item), column(record)
            cells.setdefault(key, []).append(measure.scale * value)
    labels = dict.fromkeys(label for label, _ in cells)
    columns = sorted(dict.fromkeys(name for _, name in cells), key=_number)
    if column is _budget:  # in the order of the suite
        there = dict.fromkeys(column(record) for record in records)
        columns = [name for name in there if name in columns]
    rows = (
        (label, tuple(_cell(cells.get((label, name)), measure.share) for name in columns))
        for label in labels
    )
    return Table(title, measure.unit, tuple(columns), tuple(rows))


def _cell(values: Sequence[float] | None, share: bool) -> Cell | None:
    if not values:
        return None
    sd = statistics.stdev(values) if len(values) > 1 and not share else None
    return Cell(statistics.mean(values), sd, len(values))


def _moment(where: str, moment: str) -> Value:
    def value(record: Record) -> float | None:
        found = getattr(record.result, where)
        return None if found is None else getattr(found, moment)

    return value


def _collapsed(record: Record) -> float:
    return float(bool(record.result.collapsed))


def _untrainable(record: Record) -> float:
    return float(bool(record.result.untrainable))


def _ratio(group: str) -> Value:
    def value(record: Record) -> float | None:
        widths, left = record.result.widths or {}, record.result.left
        if group not in widths or left is None:
            return None
        return widths[group][0] / widths[group][1] / left.units

    return value


def _memory(record: Record) -> float | None:
    found = record.result.peak_memory
    return None if found is None else float(found)


def _kept(record: Record) -> float | None:
    nats = record.result.nats or {}
    before = sum(one for one, _ in nats.values())
    return 1 - sum(lost for _, lost in nats.values()) / before if before > 0 else None


def _number(name: str) -> tuple[float, str]:
    digits = "".join(itertools.takewhile(lambda c: c.isdigit() or c == ".", name))
    return (float(digits) if digits else 0.0, name)
