"""What several budgets leave of the information, against what they cost."""

import math
from collections.abc import Sequence

from mipp.records import Cost
from mipp.report.figures import Axis, Choice, Figure, Point, Series, View
from mipp.report.page import Section
from mipp.report.styles import SYMBOLS, Style
from mipp.report.tables import Cell, Row, Summary, Table, short
from mipp.surgery.record import PlanRecord

_COSTS = (("macs", "MACs"), ("params", "parameters"), ("latency", "latency"))
_LINE, _MARK = (
    Style("mipp", 0, "solid", SYMBOLS[0], 2.2),
    Style("mipp", 0, "solid", SYMBOLS[0], 4.0),
)


def frontier(record: PlanRecord, others: Sequence[PlanRecord]) -> tuple[Section, ...]:
    """The section with the figure; nothing without other plans, or where no nats were measured."""
    plans = [plan for plan in (record, *others) if kept(plan) is not None]
    if not others or record not in plans or len(plans) < 2:
        return ()
    plans.sort(key=lambda plan: plan.after.macs)
    costs = [(key, words) for key, words in _COSTS if all(_left(p, key) is not None for p in plans)]
    figure = Figure(
        "Information against cost",
        "Share of the nats that all groups together keep, over what is left of the cost, for "
        "several budgets of one measurement; the large mark is this plan. The models were not "
        "refitted or evaluated, so that this is no accuracy.",
        (Choice("cost", tuple(costs)),),
        tuple(_view(record, plans, key, words) for key, words in costs),
        {(): _table(plans, costs)},
    )
    return (Section("Other budgets", "", (figure,)),)


def kept(record: PlanRecord) -> float | None:
    """The share of the nats of all groups that stays; None where none were measured."""
    rows = [row for row in record.summary if math.isfinite(row.nats_before + row.nats_after)]
    whole = sum(row.nats_before for row in rows)
    return sum(row.nats_after for row in rows) / whole if whole > 0 else None


def _left(record: PlanRecord, key: str) -> float | None:
    before, after = _value(record.before, key), _value(record.after, key)
    return None if not before or after is None else after / before


def _value(cost: Cost, key: str) -> float | None:
    found: float | None = getattr(cost, key)
    return found


def _view(mine: PlanRecord, plans: Sequence[PlanRecord], key: str, words: str) -> View:
    def point(plan: PlanRecord) -> Point:
        left, share = _left(plan, key), kept(plan)
        assert left is not None
        assert share is not None
        said = (
            f"<b>{_budget(plan)}</b><br>{left:.1%} of the {words}<br>{share:.1%} of the information"
        )
        return Point(left, Summary(share, 1), said)

    series = (
        Series("other budgets", tuple(map(point, plans)), _LINE),
        Series("this plan", (point(mine),), _MARK),
    )
    return View((key,), Axis(f"{words} left", "left"), Axis("information kept", "percent"), series)


def _table(plans: Sequence[PlanRecord], costs: Sequence[tuple[str, str]]) -> Table:
    rows = []
    for plan in plans:
        share = kept(plan) or 0.0
        cells = [
            Cell(f"{short(_value(plan.after, key) or 0.0)}", _value(plan.after, key))
            for key, _ in costs
        ]
        rows.append(Row(_budget(plan), (Cell(f"{100 * share:.1f}", share, scale=100.0), *cells)))
    columns = ("information in %", *(words for _, words in costs))
    note = "One measurement, several budgets."
    return Table("budget", columns, tuple(rows), note, is_methods=False, name="frontier")


def _budget(record: PlanRecord) -> str:
    return str(record.options.get("budget") or "this plan")
