"""How much of each layer goes."""

from collections.abc import Sequence

from lab.measurements import Record
from lab.report import provenance, rows
from lab.report.cells import percent, significant
from lab.report.summaries import over_seeds
from mipp.report.figures import Axis, Choice, Figure, Point, Series, View
from mipp.report.tables import Row, Summary, Table

RATIO, KEPT = "ratio", "kept"
_WORDS = {RATIO: "normalised ratio", KEPT: "share kept"}


def figure(setting: str, records: Sequence[Record]) -> Figure | None:
    """Share of each layer that goes, over the layers' mean. None: no widths were recorded."""
    told = [record for record in records if record.result.widths]
    layers = _layers(told)
    if not layers:
        return None
    budgets = rows.budgets_of(told)
    made = [(what, budget) for what in _WORDS for budget in budgets]
    return Figure(
        title=f"Layers: {setting}",
        caption="From inputs to outputs. The normalised ratio is the share of a layer's units that "
        "goes, over the mean of that share of all layers: 1 where all lose alike. Error bars and "
        "±: standard deviation (n − 1) over seeds.",
        choices=(
            Choice("shown", tuple(_WORDS.items())),
            Choice("budget", tuple((budget, budget) for budget in budgets)),
        ),
        views=tuple(_view(told, layers, what, budget) for what, budget in made),
        tables={choice: _table(told, layers, *choice) for choice in made},
        made=provenance.facts(told),
    )


def _layers(records: Sequence[Record]) -> tuple[str, ...]:
    """Names from inputs to outputs, which is the other way round in a record."""
    found = max((record.result.widths or {} for record in records), key=len, default={})
    return tuple(reversed(found))


def _value(record: Record, layer: str, what: str) -> float | None:
    widths = record.result.widths or {}
    if layer not in widths:
        return None
    kept = {name: left / before for name, (left, before) in widths.items()}
    if what == KEPT:
        return kept[layer]
    mean = sum(1 - share for share in kept.values()) / len(kept)
    return (1 - kept[layer]) / mean if mean > 0 else None


def _summary(records: Sequence[Record], layer: str, what: str) -> Summary | None:
    return over_seeds(_value(record, layer, what) for record in records)


def _view(records: Sequence[Record], layers: tuple[str, ...], what: str, budget: str) -> View:
    series = []
    for label, mine in rows.by_label(r for r in records if r.item.budget == budget).items():
        points = []
        for layer in layers:
            y = _summary(mine, layer, what)
            if y is not None:
                text = percent(y).text + " % kept" if what == KEPT else significant(y).text
                hover = f"<b>{label}</b>, {budget}<br>{layer}: {text} (n = {y.n})"
                points.append(Point(layer, y, hover))
        if points:
            series.append(Series(label, tuple(points)))
    y_axis = (
        Axis("share of units kept", "percent", zero=True) if what == KEPT
        else Axis("share removed / mean of layers", zero=True)
    )  # fmt: skip
    level = None if what == KEPT else ("all alike", 1.0)
    return View((what, budget), Axis("", "names", layers), y_axis, tuple(series), level=level)


def _table(records: Sequence[Record], layers: tuple[str, ...], what: str, budget: str) -> Table:
    made = []
    for label, mine in rows.by_label(r for r in records if r.item.budget == budget).items():
        found = [_summary(mine, layer, what) for layer in layers]
        cells = [percent(f) if what == KEPT else significant(f) for f in found]
        made.append(Row(label, tuple(cells)))
    words = "Units kept, in %" if what == KEPT else "Normalised ratio"
    note = f"{words}, at {budget}: mean ± standard deviation over seeds. No best: no layer is more."
    return Table("method", layers, tuple(made), note, name=f"{what}-{budget}")
