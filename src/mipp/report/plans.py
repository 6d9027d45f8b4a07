"""The page of one plan: curves with their cuts, widths, costs, refusals, options, versions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipp.records import GroupSummary, Trail
from mipp.report.figures import Axis, Choice, Figure, Point, Series, View
from mipp.report.page import Facts, Page, Section
from mipp.report.styles import SYMBOLS, Style, plain_style
from mipp.report.tables import Cell, Row, Summary, Table, count, short
from mipp.surgery.record import PlanRecord

ALL = "all groups"
STEEP = 50
"""From so many times the lowest score on, scores are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Measured:
    """What was measured of a plan, beside the plan. Shares, of what it was measured on.

    ``accuracy``: of the full model and of the pruned one. ``retrained``: after training on.
    ``latency_ms``: milliseconds for one example, before and after. ``command``: what was run.
    ``data``: what it was measured on.
    """

    accuracy: tuple[float, float] | None = None
    retrained: float | None = None
    latency_ms: tuple[float, float] | None = None
    command: str = ""
    data: str = ""


def plan_page(
    record: PlanRecord,
    *,
    title: str = "Pruning plan",
    seconds: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    measured: Measured | None = None,
) -> str:
    """The HTML of one plan.

    Parameters:
        record: the plan. Without its ``trails``, as plans of older files are, there are no curves.
        seconds: how long the stages of planning took.
        versions: name -> version of what computed it, beside mipp's own in the record.
        measured: accuracy and latency, where they were measured.

    Raises:
        InputError: Plotly is not installed.
    """
    known = measured or Measured()
    options = record.options
    lead = f"Method {options.get('method', 'unknown')}, budget {options.get('budget') or 'none'}."
    for name, difference in record.inexact.items():
        lead += (
            f"\n\n{name} is not exact: norms go across its units and see fewer of them. That alone "
            f"moves the outputs on the calibration data by {difference:.2%}."
        )
    if record.collapsed:
        lead += f"\n\nNothing is left of {', '.join(record.collapsed)}."
    if record.uncounted:
        lead += f"\n\nNot counted in multiply-accumulates: {'; '.join(record.uncounted)}."
    sections = [
        Section("Before and after", "", (outcome_facts(_changes(record), known), _widths(record))),
        _curves(record),
        _refusals(record),
        Section(
            "How it was made",
            "",
            (
                made_by(record.mipp_version, record.fingerprint, seconds, versions, known),
                options_table(record.options),
            ),
        ),
    ]
    footer = "Made by mipp; this file is complete and loads nothing."
    return Page(title, lead, tuple(sections), footer=footer).html()


def _changes(record: PlanRecord) -> tuple[tuple[str, float | int, float | int], ...]:
    return (
        ("multiply-accumulates", record.before.macs, record.after.macs),
        ("parameters", record.before.params, record.after.params),
        ("units", record.before.units, record.after.units),
    )


def outcome_facts(
    changes: Sequence[tuple[str, float | int, float | int]], measured: Measured
) -> Facts:
    """What was counted and measured, before and after. ``changes``: name, before, after."""
    shown = [(name, _change(before, after)) for name, before, after in changes]
    if measured.accuracy is not None:
        before, after = measured.accuracy
        shown.append(("accuracy", f"{_percent(before)} → {_percent(after)}"))
    if measured.retrained is not None:
        shown.append(("accuracy, retrained", _percent(measured.retrained)))
    if measured.latency_ms is not None:
        before, after = measured.latency_ms
        shown.append(("ms for one example", f"{before:.3g} → {after:.3g}"))
    return Facts("Before and after", tuple(shown), folded=False)


def _change(before: float | int, after: float | int) -> str:
    share = f" ({after / before:.1%})" if before else ""
    return f"{short(before)} → {short(after)}{share}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _inputs_first(record: PlanRecord) -> tuple[GroupSummary, ...]:
    return tuple(reversed(record.summary))


def _widths(record: PlanRecord) -> Figure:
    groups = _inputs_first(record)
    names = tuple(row.name for row in groups)
    points = []
    for row in groups:
        share = row.units_after / row.units_before
        hover = f"<b>{row.name}</b><br>{row.units_after} of {row.units_before} units stay"
        points.append(Point(row.name, Summary(share, 1), hover))
    told = (
        " Nats in the table: information that the units tell their consumers, per example, and "
        "what is left of it."
        if any(np.isfinite(row.nats_before) for row in groups)
        else ""
    )
    style = Style("mipp", 0, "solid", SYMBOLS[0], 4.0)
    series = (Series("units kept", tuple(points), style),)
    views = (View((), Axis("", "names", names), Axis("units kept", "percent", zero=True), series,
                  drawing="bars"),)  # fmt: skip
    return Figure(
        title="Widths",
        caption=f"Share of each group's units that stays, from inputs to outputs.{told} MACs and "
        "parameters in the table: of the layers that make or read the group; a layer between two "
        "groups counts in both.",
        choices=(),
        views=views,
        tables={(): _groups(groups)},
        height=90 + 26 * len(groups),
    )


def _groups(groups: Sequence[GroupSummary]) -> Table:
    told = any(np.isfinite(row.nats_before) for row in groups)
    made = []
    for row in groups:
        mine = (nats(row.nats_before), nats(row.nats_after), _kept(row)) if told else ()
        made.append(
            Row(
                row.name,
                (
                    count(row.units_before), count(row.units_after), *mine,
                    count(row.macs_before), count(row.macs_after),
                    count(row.params_before), count(row.params_after),
                ),
            )
        )  # fmt: skip
    columns = (
        "units", "left", *(("nats", "nats left", "in %") if told else ()),
        "MACs", "MACs left", "params", "params left",
    )  # fmt: skip
    note = "Before and after pruning."
    return Table("group", columns, tuple(made), note, is_methods=False, name="groups")


def nats(value: float) -> Cell:
    """A number of nats; nothing where none were measured."""
    return Cell(short(value, 4), value) if np.isfinite(value) else Cell()


def _kept(row: GroupSummary) -> Cell:
    if not np.isfinite(row.nats_after) or not row.nats_before > 0:
        return Cell()
    share = row.nats_after / row.nats_before
    return Cell(f"{100 * share:.1f}", share, scale=100.0)


def _curves(record: PlanRecord) -> Section:
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
        "plan stops. For all groups, shares of each group's units and nats; the large mark is "
        "the cut."
        if by_nats
        else "Scores of single units in the order in which they go, each from the round it went "
        "in (rounds can differ in scale); the cut is where the plan stops. Scores are no nats."
    )
    names = tuple(view.choice[0] for view in views)
    figure = Figure(
        title="Nats lost with the units" if by_nats else "Scores of the units",
        caption=words,
        choices=(Choice("group", tuple((name, name) for name in names)),),
        views=tuple(views),
    )
    return Section(title, "", (figure,))


def _cut(trail: Trail, row: GroupSummary) -> tuple[float, float]:
    """Units that go, and the value there; before the first score, that of the first."""
    gone = row.units_before - row.units_after
    return float(gone), float(np.interp(gone, trail.removed, trail.values))


def _together(trails: Sequence[Trail], rows: Mapping[str, GroupSummary]) -> View:
    lines, cuts = [], []
    for index, trail in enumerate(trails):
        row, style = rows[trail.group], plain_style(index)
        whole = row.nats_before if row.nats_before > 0 else 1.0
        points = [
            Point(n / row.units_before, Summary(value / whole, 1), _hover(trail, row, n, value))
            for n, value in zip(trail.removed, trail.values, strict=True)
        ]
        lines.append(Series(trail.group, tuple(points), style))
        gone, value = _cut(trail, row)
        hover = "<b>cut</b>, " + _hover(trail, row, int(gone), value)
        mark = Point(gone / row.units_before, Summary(value / whole, 1), hover)
        cuts.append(Series(trail.group, (mark,), large_mark(style)))
    x = Axis("units removed", "percent", zero=True)
    y = Axis("share of nats lost", "percent", zero=True)
    return View((ALL,), x, y, (*lines, *cuts))


def large_mark(style: Style) -> Style:
    """The same with larger marks."""
    return Style(style.family, style.colour, style.dash, style.symbol, 4.0)


def _alone(trail: Trail, row: GroupSummary) -> View:
    points = tuple(
        Point(n, Summary(value, 1), _hover(trail, row, n, value))
        for n, value in zip(trail.removed, trail.values, strict=True)
    )
    series = [Series(trail.group, points, Style("mipp", 0, "solid", SYMBOLS[0], 2.2))]
    gone, _ = _cut(trail, row)
    y_title = "nats lost" if trail.measure == "nats" else "score"
    steep = min(trail.values) > 0 and max(trail.values) > STEEP * min(trail.values)
    # between the last that goes and the first that stays
    where = gone if trail.measure == "nats" else gone + 0.5
    cut = (f"cut: {row.units_before} → {row.units_after}", where)
    x_title = "units removed" if trail.measure == "nats" else "place in the order of removal"
    return View(
        (trail.group,), Axis(x_title, zero=True),
        Axis(y_title, "log") if steep else Axis(y_title, zero=True), tuple(series), cuts=(cut,),
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


def _refusals(record: PlanRecord) -> Section:
    if not record.refused:
        return Section("What is refused", "Nothing: every group of channels can be pruned.")
    rows = tuple(Row(r.name, (count(r.n_units), Cell(r.reason))) for r in record.refused)
    note = "Left as they are, and why."
    table = Table("channels", ("units", "why"), rows, note, is_methods=False, name="refused")
    return Section("What is refused", "", (table,))


def made_by(
    version: str,
    fingerprint: str,
    seconds: Mapping[str, float] | None,
    versions: Mapping[str, str] | None,
    measured: Measured,
) -> Facts:
    """Versions, seconds and what was run. ``version``: of mipp; ``fingerprint``: of the model."""
    all_versions = {"mipp": version} | dict(versions or {})
    rows = [("versions", ", ".join(f"{name} {v}" for name, v in all_versions.items()))]
    if seconds:
        rows.append(("seconds", ", ".join(f"{name} {s:.3g}" for name, s in seconds.items())))
    if measured.command:
        rows.insert(0, ("command", measured.command))
    if measured.data:
        rows.append(("data", measured.data))
    rows.append(("fingerprint of the model", fingerprint))
    return Facts("Made by", tuple(rows), folded=True)


def options_table(options: Mapping[str, Any]) -> Table:
    """All settings of a plan."""
    rows = tuple(Row(name, (Cell(_words(value)),)) for name, value in options.items())
    note = "All settings of the plan."
    return Table("option", ("value",), rows, note, is_methods=False, name="options")


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
