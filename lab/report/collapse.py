"""How often pruning empties a layer, or leaves a net that cannot be trained."""

from collections.abc import Callable, Sequence

from lab.measurements import Record
from lab.report import provenance, rows
from lab.report.cells import marked_columns, percent
from lab.report.summaries import share_of_runs
from mipp.report.figures import Axis, Choice, Figure, Point, Series, View
from mipp.report.tables import Cell, Row, Table

BINS = 20
"""Bins of 5 % of the units."""


def _emptied(record: Record) -> bool | None:
    collapsed = record.result.collapsed
    return None if collapsed is None else bool(collapsed)


_READS: dict[str, tuple[str, Callable[[Record], bool | None]]] = {
    "untrainable": ("untrainable net", lambda record: record.result.untrainable),
    "empty": ("empty layer", _emptied),
}


def figure(setting: str, records: Sequence[Record]) -> Figure | None:
    """Share of runs that collapsed, in bins of 5 % of the units removed."""
    told = [record for record in records if record.result.left is not None]
    shown = {key: how for key, how in _READS.items() if any(how[1](r) is not None for r in told)}
    if not shown:
        return None
    return Figure(
        title=f"Collapse: {setting}",
        caption="Share of runs, without a floor on widths, in bins of 5 % of the units that were "
        "removed. Untrainable: the pruned net gives the same outputs whatever its input. Error "
        "bars: Wilson's 95 % interval for a share of n runs.",
        choices=(Choice("share of runs with an", tuple((k, how[0]) for k, how in shown.items())),),
        views=tuple(_view(told, key) for key in shown),
        tables={(key,): _table(told, key) for key in shown},
        made=provenance.facts(told),
    )


def _bin(record: Record) -> int:
    assert record.result.left is not None
    # a share on the edge of two bins belongs to the upper one, whatever its rounding
    return min(int((1 - record.result.left.units) * BINS + 1e-6), BINS - 1)


def _words(index: int) -> str:
    return f"{100 * index // BINS}–{100 * (index + 1) // BINS} %"


def _view(records: Sequence[Record], key: str) -> View:
    words, read = _READS[key]
    series = []
    for label, mine in rows.by_label(records).items():
        points = []
        for index in sorted({_bin(record) for record in mine}):
            y = share_of_runs(read(record) for record in mine if _bin(record) == index)
            if y is not None:
                hover = (
                    f"<b>{label}</b>, {_words(index)} of units removed<br>"
                    f"{words}: {round(y.mean * y.n)} of {y.n} runs"
                )
                points.append(Point((index + 0.5) / BINS, y, hover))
        if points:
            series.append(Series(label, tuple(points)))
    return View(
        (key,),
        Axis("units removed, middle of the bin", "percent"),
        Axis(f"runs with an {words}", "percent", zero=True),
        tuple(series),
    )


def _table(records: Sequence[Record], key: str) -> Table:
    read = _READS[key][1]
    bins = sorted({_bin(record) for record in records})
    made = []
    for label, mine in rows.by_label(records).items():
        cells = []
        for index in bins:
            y = share_of_runs(read(record) for record in mine if _bin(record) == index)
            cell = percent(y, 0)
            text = cell.text if y is None else f"{100 * y.mean:.0f} ({round(y.mean * y.n)}/{y.n})"
            cells.append(Cell(text, cell.value, None, cell.n, scale=100.0))
        made.append(Row(label, tuple(cells)))
    note = (
        "Share of runs in % (how many of how many). The least of each column, hidden rows too, is "
        "bold."
    )
    return Table(
        "method", tuple(_words(i) for i in bins), marked_columns(made, "lower"), note, name=key
    )
