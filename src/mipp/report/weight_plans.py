"""The page of a plan of single weights: density of layers, curves with their cuts, settings."""

from collections.abc import Mapping, Sequence

from mipp.records import Trail
from mipp.report.figures import (
    Axis,
    Figure,
    Point,
    Series,
    View,
    above_floor,
    bars,
    curves_figure,
    name_of_together,
    together,
)
from mipp.report.page import Section
from mipp.report.plans import (
    Measured,
    heading,
    made_by,
    measured_nats,
    nats,
    outcome_facts,
    page_of,
    refusals,
)
from mipp.report.styles import SYMBOLS, Style
from mipp.report.tables import Cell, Row, Summary, Table, count, short
from mipp.surgery.mask_record import LayerSummary, MaskRecord

ALL = "all layers"


def weights_page(
    record: MaskRecord,
    *,
    title: str = "",
    name: str = "",
    seconds: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    measured: Measured | None = None,
) -> str:
    """The HTML of one plan of single weights; arguments and errors as of `plan_page`."""
    known = measured or Measured()
    options = dict(record.options)
    budget = options.get("budget") or record.granularity
    title, lead = heading(title, name, options | {"budget": budget})
    lead += f" Single weights, granularity {record.granularity}."
    empty = [row.name for row in record.summary if row.weights_after == 0]
    if empty:
        lead += f"\n\nNothing is left of {', '.join(empty)}."
    changes = (
        ("weights that are not zero", record.before.weights, record.after.weights),
        ("parameters without zeros", record.before.params, record.after.params),
    )
    return page_of(
        record,
        title,
        lead,
        (outcome_facts(changes, known), _densities(record)),
        (_curves(record),),
        refusals(record.refused, "layer", "weights", "every layer's weights"),
        made_by(record, seconds, versions, known),
    )


def _densities(record: MaskRecord) -> Figure:
    shares = [
        (row.name, _density(row), f"{row.weights_after:,} of {row.weights_before:,} weights stay")
        for row in record.summary
    ]
    words = (
        " Nats in the table: information in the layer's outputs, seen one by one, per example, and "
        "what is left of it."
        if measured_nats(record.summary)
        else ""
    )
    caption = (
        "Share of each layer's weights that stays, of those that were not zero before; inputs "
        f"first. Empty: outputs that read nothing any more.{words}"
    )
    return bars("Density", caption, "weights kept", shares, _table(record))


def _density(row: LayerSummary) -> float:
    return row.weights_after / max(row.weights_before, 1)


def _table(record: MaskRecord) -> Table:
    has_nats = measured_nats(record.summary)
    made = []
    for row in record.summary:
        left = row.nats_after / row.nats_before if row.nats_before > 0 else 1.0
        mine = (
            nats(row.nats_before), nats(row.nats_after),
            Cell(f"{100 * left:.1f}", left, scale=100.0),
        ) if has_nats else ()  # fmt: skip
        share = _density(row)
        cells = (
            count(row.weights_before), count(row.weights_after),
            Cell(f"{100 * share:.1f}", share, scale=100.0), count(row.empty_rows), *mine,
        )  # fmt: skip
        made.append(Row(row.name, cells))
    columns = ("weights", "left", "in %", "empty",
               *(("nats", "nats left", "nats in %") if has_nats else ()))  # fmt: skip
    note = "Before and after pruning."
    return Table("layer", columns, tuple(made), note, is_methods=False, name="layers")


def _curves(record: MaskRecord) -> Section:
    title = "What goes, and what it costs"
    rows = {row.name: row for row in record.summary}
    trails = [trail for trail in record.trails if trail.group in rows]
    if not trails:
        about = "This plan says nothing of single weights: its method measures no information."
        return Section(title, about)
    views = [_together(trails, rows), *(_alone(trail, rows[trail.group]) for trail in trails)]
    caption = (
        "Nats lost per example, outputs seen one by one, as a layer's weights go at one "
        "price for all its rows; the cut is what the plan leaves. Its nats are those of the choice "
        "itself, which can be a little below the curve. Together, shares of each layer's weights "
        "and nats; the large mark is the cut. What is hardly anything stands at the foot of the "
        "log scale."
    )
    figure = curves_figure("Nats lost with the weights", caption, "layer", views)
    return Section(title, "", (figure,))


def _cut(row: LayerSummary) -> tuple[int, float]:
    return row.weights_before - row.weights_after, row.nats_before - row.nats_after


def _together(trails: Sequence[Trail], rows: Mapping[str, LayerSummary]) -> View:
    curves = []
    for trail in trails:
        row = rows[trail.group]
        places = [*zip(trail.removed, trail.values, strict=True), _cut(row)]
        words = [_hover(row, gone, lost) for gone, lost in places]
        curves.append((trail.group, row.weights_before, row.nats_before, places, words))
    return together(name_of_together(ALL, len(curves)), "weights removed", curves)


def _alone(trail: Trail, row: LayerSummary) -> View:
    points = tuple(
        Point(gone, Summary(height, 1), _hover(row, gone, lost))
        for gone, height, lost in zip(
            trail.removed, above_floor(trail.values), trail.values, strict=True
        )
    )
    series = (Series(trail.group, points, Style("mipp", 0, "solid", SYMBOLS[0], 2.2)),)
    cut = (f"cut: {row.weights_before:,} → {row.weights_after:,}", float(_cut(row)[0]))
    x, y = Axis("weights removed", zero=True), Axis("nats lost, log scale", "log")
    return View((trail.group,), x, y, series, cuts=(cut,))


def _hover(row: LayerSummary, gone: int, lost: float | int) -> str:
    return (
        f"<b>{row.name}</b><br>{gone:,} of {row.weights_before:,} weights removed<br>"
        f"{short(lost, 4)} of {short(row.nats_before, 4)} nats lost"
    )
