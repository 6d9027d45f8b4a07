"""The curves of a plan of units: what goes with each unit, and where the plan stops."""

from collections.abc import Mapping, Sequence

import numpy as np

from mipp.records import GroupSummary, Trail
from mipp.report.figures import (
    Axis,
    Point,
    Series,
    View,
    above_floor,
    curves_figure,
    name_of_together,
    together,
)
from mipp.report.page import Section
from mipp.report.styles import SYMBOLS, Style
from mipp.report.tables import Summary, short
from mipp.surgery.record import PlanRecord

ALL = "all groups"
STEEP = 50
"""Scores that differ by more than this factor are drawn on a logarithmic axis."""


def curves(record: PlanRecord) -> Section:
    """The section with the curves; without any where the plan has none."""
    rows = {row.name: row for row in record.summary}
    trails = [trail for trail in reversed(record.trails) if trail.group in rows]
    title = "What goes, and what it costs"
    if not trails:
        about = (
            "This plan says nothing of single units: it is from an older file, its method trains, "
            "or nothing could go."
        )
        return Section(title, about)
    by_nats = trails[0].measure == "nats"
    alone = [_alone(trail, rows[trail.group]) for trail in trails]
    # scores of several rounds, or of groups that are ranked apart, share no scale
    views = [_together(trails, rows), *alone] if by_nats else alone
    words = (
        "Nats lost per example as units go, the least informative first; the cut is where the "
        "plan stops. Together, shares of each group's units and nats; the large mark is the cut. "
        "What is hardly anything stands at the foot of the log scale."
        if by_nats
        else "Scores of single units in the order in which they go, each from the round it went "
        "in (rounds can differ in scale); the cut is where the plan stops. Scores are no nats."
    )
    name = "Nats lost with the units" if by_nats else "Scores of the units"
    return Section(title, "", (curves_figure(name, words, "group", views),))


def _cut(trail: Trail, row: GroupSummary) -> tuple[float, float]:
    """Number of units removed, and the value there; before the first score, the first one."""
    gone = row.units_before - row.units_after
    return float(gone), float(np.interp(gone, trail.removed, trail.values))


def _together(trails: Sequence[Trail], rows: Mapping[str, GroupSummary]) -> View:
    curves = []
    for trail in trails:
        row = rows[trail.group]
        gone, value = _cut(trail, row)
        places = [*zip(trail.removed, trail.values, strict=True), (int(gone), value)]
        words = [_hover(trail, row, n, lost) for n, lost in places]
        words[-1] = f"<b>cut</b>, {words[-1]}"
        curves.append((trail.group, row.units_before, row.nats_before, places, words))
    return together(name_of_together(ALL, len(curves)), "units removed", curves)


def _alone(trail: Trail, row: GroupSummary) -> View:
    by_nats = trail.measure == "nats"
    steep = min(trail.values) > 0 and max(trail.values) > STEEP * min(trail.values)
    log = steep or (by_nats and max(trail.values) > 0)
    heights = above_floor(trail.values) if by_nats else trail.values
    points = tuple(
        Point(n, Summary(height, 1), _hover(trail, row, n, value))
        for n, height, value in zip(trail.removed, heights, trail.values, strict=True)
    )
    series = [Series(trail.group, points, Style("mipp", 0, "solid", SYMBOLS[0], 2.2))]
    gone, _ = _cut(trail, row)
    y_title = f"{'nats lost' if by_nats else 'score'}{', log scale' * log}"
    # between the last that goes and the first that stays
    where = gone if by_nats else gone + 0.5
    cut = (f"cut: {row.units_before} → {row.units_after}", where)
    x_title = "units removed" if by_nats else "place in the order of removal"
    return View(
        (trail.group,), Axis(x_title, zero=True),
        Axis(y_title, "log") if log else Axis(y_title, zero=True), tuple(series), cuts=(cut,),
    )  # fmt: skip


def _hover(trail: Trail, row: GroupSummary, n: int, value: float | int) -> str:
    if trail.measure == "nats":
        total = f" of {short(row.nats_before, 4)}" if np.isfinite(row.nats_before) else ""
        return (
            f"<b>{trail.group}</b><br>{n} of {row.units_before} units removed<br>"
            f"{short(value, 4)}{total} nats lost"
        )
    goes = "goes" if n <= row.units_before - row.units_after else "stays"
    return f"<b>{trail.group}</b><br>unit {n} of {row.units_before}, {goes}<br>{short(value, 4)}"
