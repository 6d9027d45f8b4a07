"""The page of a plan of single weights: density of layers, curves with their cuts, settings."""

# ruff: noqa: D102 (what the fields of records are is said where the records are)

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mipp.records import Refusal, Trail
from mipp.report.figures import Axis, Choice, Figure, Point, Series, View
from mipp.report.page import Page, Section
from mipp.report.plans import Measured, large_mark, made_by, nats, options_table, outcome_facts
from mipp.report.styles import SYMBOLS, Style, plain_style
from mipp.report.tables import Cell, Row, Summary, Table, count, short

ALL = "all layers"


@runtime_checkable
class Layer(Protocol):
    """What a plan says of one weight; `mipp.surgery.masks.LayerSummary` is one."""

    @property
    def name(self) -> str: ...
    @property
    def weights_before(self) -> int: ...
    @property
    def weights_after(self) -> int: ...
    @property
    def empty_rows(self) -> int: ...
    @property
    def nats_before(self) -> float: ...
    @property
    def nats_after(self) -> float: ...


@runtime_checkable
class Totals(Protocol):
    """What is not zero."""

    @property
    def params(self) -> int: ...
    @property
    def weights(self) -> int: ...


@runtime_checkable
class Record(Protocol):
    """A plan of single weights as plain data; `mipp.surgery.masks.MaskRecord` is one."""

    @property
    def granularity(self) -> str: ...
    @property
    def summary(self) -> Sequence[Layer]: ...
    @property
    def trails(self) -> Sequence[Trail]: ...
    @property
    def refused(self) -> Sequence[Refusal]: ...
    @property
    def before(self) -> Totals: ...
    @property
    def after(self) -> Totals: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def mipp_version(self) -> str: ...


def weights_page(
    record: Record,
    *,
    title: str = "Plan of single weights",
    seconds: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    measured: Measured | None = None,
) -> str:
    """The HTML of one plan of single weights; parameters and errors as of `plan_page`."""
    known = measured or Measured()
    options = record.options
    lead = (
        f"Method {options.get('method', 'unknown')}, granularity {record.granularity}, "
        f"budget {options.get('budget') or 'none'}."
    )
    empty = [row.name for row in record.summary if row.weights_after == 0]
    if empty:
        lead += f"\n\nNothing is left of {', '.join(empty)}."
    changes = (
        ("weights that are not zero", record.before.weights, record.after.weights),
        ("parameters without zeros", record.before.params, record.after.params),
    )
    sections = (
        Section("Before and after", "", (outcome_facts(changes, known), _densities(record))),
        _curves(record),
        _refusals(record),
        Section(
            "How it was made", "",
            (
                made_by(record.mipp_version, record.fingerprint, seconds, versions, known),
                options_table(options),
            ),
        ),
    )  # fmt: skip
    footer = "Made by mipp; this file is complete and loads nothing."
    return Page(title, lead, sections, footer=footer).html()


def _told(record: Record) -> bool:
    return any(np.isfinite(row.nats_before) for row in record.summary)


def _densities(record: Record) -> Figure:
    names = tuple(row.name for row in record.summary)
    points = []
    for row in record.summary:
        share = row.weights_after / max(row.weights_before, 1)
        hover = f"<b>{row.name}</b><br>{row.weights_after:,} of {row.weights_before:,} weights stay"
        points.append(Point(row.name, Summary(share, 1), hover))
    words = (
        " Nats in the table: information in the layer's outputs, seen one by one, per example, and "
        "what is left of it."
        if _told(record)
        else ""
    )
    series = (Series("weights kept", tuple(points), Style("mipp", 0, "solid", SYMBOLS[0], 4.0)),)
    view = View((), Axis("", "names", names), Axis("weights kept", "percent", zero=True), series,
                drawing="bars")  # fmt: skip
    return Figure(
        title="Density",
        caption="Share of each layer's weights that stays, of those that were not zero before; "
        f"inputs first. Empty: outputs that read nothing any more.{words}",
        choices=(),
        views=(view,),
        tables={(): _table(record)},
        height=90 + 26 * len(names),
    )


def _table(record: Record) -> Table:
    told = _told(record)
    made = []
    for row in record.summary:
        left = row.nats_after / row.nats_before if row.nats_before > 0 else 1.0
        mine = (
            nats(row.nats_before), nats(row.nats_after),
            Cell(f"{100 * left:.1f}", left, scale=100.0),
        ) if told else ()  # fmt: skip
        share = row.weights_after / max(row.weights_before, 1)
        cells = (
            count(row.weights_before), count(row.weights_after),
            Cell(f"{100 * share:.1f}", share, scale=100.0), count(row.empty_rows), *mine,
        )  # fmt: skip
        made.append(Row(row.name, cells))
    columns = ("weights", "left", "in %", "empty",
               *(("nats", "nats left", "nats in %") if told else ()))  # fmt: skip
    note = "Before and after pruning."
    return Table("layer", columns, tuple(made), note, is_methods=False, name="layers")


def _curves(record: Record) -> Section:
    title = "What goes, and what it costs"
    rows = {row.name: row for row in record.summary}
    trails = [trail for trail in record.trails if trail.group in rows]
    if not trails:
        about = "This plan says nothing of single weights: its method measures no information."
        return Section(title, about)
    views = [_together(trails, rows), *(_alone(trail, rows[trail.group]) for trail in trails)]
    names = tuple(view.choice[0] for view in views)
    figure = Figure(
        title="Nats lost with the weights",
        caption="Nats lost per example, outputs seen one by one, as a layer's weights go at one "
        "price for all its rows; the cut is what the plan leaves. Its nats are those of the choice "
        "itself, which can be a little below the curve. For all layers, shares of each layer's "
        "weights and nats; the large mark is the cut.",
        choices=(Choice("layer", tuple((name, name) for name in names)),),
        views=tuple(views),
    )
    return Section(title, "", (figure,))


def _cut(row: Layer) -> tuple[int, float]:
    return row.weights_before - row.weights_after, row.nats_before - row.nats_after


def _together(trails: Sequence[Trail], rows: Mapping[str, Layer]) -> View:
    lines, cuts = [], []
    for index, trail in enumerate(trails):
        row, style = rows[trail.group], plain_style(index)
        whole = row.nats_before if row.nats_before > 0 else 1.0
        places = [*zip(trail.removed, trail.values, strict=True), _cut(row)]
        points = [
            Point(gone / max(row.weights_before, 1), Summary(lost / whole, 1),
                  _hover(row, gone, lost))
            for gone, lost in places
        ]  # fmt: skip
        lines.append(Series(trail.group, tuple(points[:-1]), style))
        cuts.append(Series(trail.group, (points[-1],), large_mark(style)))
    x = Axis("weights removed", "percent", zero=True)
    y = Axis("share of nats lost", "percent", zero=True)
    return View((ALL,), x, y, (*lines, *cuts))


def _alone(trail: Trail, row: Layer) -> View:
    points = tuple(
        Point(gone, Summary(lost, 1), _hover(row, gone, lost))
        for gone, lost in zip(trail.removed, trail.values, strict=True)
    )
    series = (Series(trail.group, points, Style("mipp", 0, "solid", SYMBOLS[0], 2.2)),)
    cut = (f"cut: {row.weights_before:,} → {row.weights_after:,}", float(_cut(row)[0]))
    x, y = Axis("weights removed", zero=True), Axis("nats lost", zero=True)
    return View((trail.group,), x, y, series, cuts=(cut,))


def _hover(row: Layer, gone: int, lost: float | int) -> str:
    return (
        f"<b>{row.name}</b><br>{gone:,} of {row.weights_before:,} weights removed<br>"
        f"{short(lost, 4)} of {short(row.nats_before, 4)} nats lost"
    )


def _refusals(record: Record) -> Section:
    if not record.refused:
        return Section("What is refused", "Nothing: every layer's weights can be pruned.")
    rows = tuple(Row(r.name, (count(r.n_units), Cell(r.reason))) for r in record.refused)
    note = "Left as they are, and why."
    table = Table("layer", ("weights", "why"), rows, note, is_methods=False, name="refused")
    return Section("What is refused", "", (table,))
