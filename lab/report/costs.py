"""Seconds and memory until the units are chosen, against the size of the net."""

from collections.abc import Callable, Sequence

from lab.measurements import Record
from lab.report import provenance, rows
from lab.report.cells import marked_columns, significant
from mipp.report.figures import Axis, Choice, Figure, Point, Series, View
from mipp.report.tables import Row, Table, short

_READS: dict[str, tuple[str, Callable[[Record], float | None], float]] = {
    "seconds": ("seconds", lambda record: record.result.seconds.plan, 1.0),
    "memory": ("memory, MB", lambda record: record.result.peak_memory, 1e-6),
}
_SIZES = {"params": "parameters", "macs": "multiply-accumulates", "units": "units"}


def figure(records: Sequence[Record]) -> Figure | None:
    """What each method takes to find its mask, on nets of several sizes."""
    told = [record for record in records if record.result.cost is not None]
    shown = {key: how for key, how in _READS.items() if any(how[1](r) is not None for r in told)}
    if not shown:
        return None
    return Figure(
        title="Cost of finding the mask",
        caption="Until the units are chosen, without retraining; memory beyond what net and images "
        "take. Each mark is one net, a mean over seeds and budgets. Error bars and ±: standard "
        "deviation (n − 1).",
        choices=(
            Choice("cost", tuple((key, how[0]) for key, how in shown.items())),
            Choice("against", tuple(_SIZES.items())),
        ),
        views=tuple(_view(told, key, size) for key in shown for size in _SIZES),
        tables={(key,): _table(told, key) for key in shown},
        made=provenance.facts(told),
    )


def _net(record: Record) -> str:
    stage = {"trained": ", trained", "init": ", untrained", None: ""}[record.item.stage]
    return record.item.net.label + stage


def _size(record: Record, size: str) -> float:
    assert record.result.cost is not None
    return float(getattr(record.result.cost.before, size))


def _view(records: Sequence[Record], key: str, size: str) -> View:
    words, read, scale = _READS[key]
    series = []
    for label, mine in rows.by_label(records).items():
        points = []
        for net, here in rows.together(mine, _net):
            y = rows.mean_of(here, lambda r: _scaled(read(r), scale))
            if y is not None and y.mean > 0:
                x = _size(here[0], size)
                hover = (
                    f"<b>{label}</b>, {net}<br>{words}: {significant(y).text} (n = {y.n})<br>"
                    f"{short(x)} {_SIZES[size]}"
                )
                points.append(Point(x, y, hover))
        if points:
            series.append(Series(label, tuple(sorted(points, key=lambda p: float(p.x)))))
    return View(
        (key, size), Axis(f"{_SIZES[size]} of the net", "log"), Axis(words, "log"), tuple(series)
    )


def _table(records: Sequence[Record], key: str) -> Table:
    words, read, scale = _READS[key]
    nets = sorted({_net(r): _size(r, "params") for r in records}.items(), key=lambda row: row[1])
    made = [
        Row(
            label,
            tuple(
                significant(rows.mean_of([r for r in mine if _net(r) == net], read), scale=scale)
                for net, _ in nets
            ),
        )
        for label, mine in rows.by_label(records).items()
    ]
    note = (
        f"{words.capitalize()}: mean ± standard deviation. The least of each column, hidden rows "
        "too, is bold."
    )
    columns = tuple(net for net, _ in nets)
    return Table("method", columns, marked_columns(made, "lower"), note, name=key)


def _scaled(value: float | int | None, scale: float) -> float | None:
    return None if value is None else scale * value
