"""The page of a plan of blocks: nats lost as blocks go, a table of all blocks, settings."""

from collections.abc import Mapping

from mipp.report.figures import Axis, Figure, Point, Series, View
from mipp.report.plans import (
    Measured,
    heading,
    made_by,
    nats,
    outcome_facts,
    page_of,
    refusals,
)
from mipp.report.styles import SYMBOLS, Style
from mipp.report.tables import Cell, Row, Summary, Table, count, short
from mipp.surgery.block_record import BlockRecord


def blocks_page(
    record: BlockRecord,
    *,
    title: str = "",
    name: str = "",
    seconds: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    measured: Measured | None = None,
) -> str:
    """The HTML of one plan of blocks; arguments and errors as of `plan_page`."""
    known = measured or Measured()
    title, lead = heading(title, name, record.options)
    lead += f" Whole blocks, order {record.options.get('order')}."
    if record.removed:
        lead += f"\n\nTaken out: {', '.join(row.name for row in record.in_order())}."
    changes = (
        ("multiply-accumulates", record.before.macs, record.after.macs),
        ("parameters", record.before.params, record.after.params),
        ("blocks", record.before.units, record.after.units),
        ("nats lost before a refit", 0.0, record.nats),
    )
    return page_of(
        record,
        title,
        lead,
        (outcome_facts(changes, known), _losses(record)),
        (),
        refusals(record.refused, "module", "blocks", "every block"),
        made_by(record, seconds, versions, known),
    )


def _losses(record: BlockRecord) -> Figure:
    gone = record.in_order()
    places = [(0, 0.0, "the whole model"), *((r.removed, r.nats_then, r.name) for r in gone)]
    points = tuple(
        Point(n, Summary(lost, 1), f"<b>{name}</b><br>{n} gone, {short(lost, 4)} nats lost")
        for n, lost, name in places
    )
    series = (Series("nats lost", points, Style("mipp", 0, "solid", SYMBOLS[0], 2.2)),)
    view = View((), Axis("blocks taken out", zero=True), Axis("nats lost", zero=True), series)
    caption = (
        "Divergence of the answers from those of the whole model, for each prediction, as blocks "
        "go one after the other, before anything is fitted. In the table also that of each block "
        "alone."
    )
    return Figure("What goes, and what it costs", caption, (), (view,), {(): _table(record)})


def _table(record: BlockRecord) -> Table:
    rows = tuple(
        Row(
            row.name,
            (
                Cell(row.kind),
                Cell(str(row.removed) if row.removed else "stays", row.removed),
                nats(row.nats_alone), nats(row.nats_then), count(row.macs), count(row.params),
            ),
        )
        for row in record.summary
    )  # fmt: skip
    columns = ("class", "taken out", "nats alone", "nats by then", "MACs", "params")
    note = "In the order of the model."
    return Table("block", columns, rows, note, is_methods=False, name="blocks")
