"""The page of one plan: curves with their cuts, widths, costs, refusals, options, versions."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np

from mipp.records import GroupSummary, Refusal
from mipp.refusals import by_reason
from mipp.report.figures import (
    Figure,
)
from mipp.report.frontier import frontier
from mipp.report.net_picture import Picture, picture
from mipp.report.page import Facts, Page, Section
from mipp.report.tables import NOTHING, Cell, Row, Table, count, short
from mipp.report.unit_curves import curves
from mipp.surgery.block_record import BlockRecord
from mipp.surgery.mask_record import LayerSummary, MaskRecord
from mipp.surgery.record import PlanRecord


@dataclass(frozen=True)
class Measured:
    """What was measured beside the plan.

    Attributes:
        accuracy: share of correct answers, of the full model and of the pruned one.
        retrained: accuracy of the pruned model after retraining.
        latency_ms: milliseconds for one example, before and after.
        command: what was run.
        data: what it was measured on.
        other: name of another metric, and its values before, after, and where there was any after
            tuning and after retraining.
        tuned: accuracy of the pruned model after tuning.
        tuning: what came of tuning, in words.
    """

    accuracy: tuple[float, float] | None = None
    retrained: float | None = None
    latency_ms: tuple[float, float] | None = None
    command: str = ""
    data: str = ""
    other: tuple[str, tuple[float, ...]] | None = None
    tuned: float | None = None
    tuning: str | None = None


def current_versions() -> dict[str, str]:
    """Versions of mipp, torch and Python, on which numbers depend."""
    installed = {"mipp": metadata.version("torch-mipp"), "torch": metadata.version("torch")}
    return installed | {"python": platform.python_version()}


def plan_page(
    record: PlanRecord,
    *,
    title: str = "",
    name: str = "",
    seconds: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    measured: Measured | None = None,
    others: Sequence[PlanRecord] = (),
) -> str:
    """The HTML of one plan.

    Args:
        record: the plan. Without its ``trails``, as plans of older files are, there are no curves.
        title: of the page; by default what is pruned, and to what budget.
        name: of the model.
        seconds: that the stages of planning took.
        versions: name -> version of what computed it, beside mipp's own in the record; those of
            torch and Python now by default.
        measured: accuracy and latency, where they were measured.
        others: plans of the same model for other budgets, as `mipp.plans` makes them, for the
            frontier of information against cost.

    Raises:
        InputError: Plotly is not installed.
    """
    known = measured or Measured()
    title, lead = heading(title, name, record.options)
    for group, difference in record.inexact.items():
        lead += (
            f"\n\n{group} is not exact: norms go across its units and see fewer of them. That "
            f"alone moves the outputs on the calibration data by {difference:.2%}."
        )
    if record.collapsed:
        lead += f"\n\nNothing is left of {', '.join(record.collapsed)}."
    if record.uncounted:
        lead += f"\n\nNot counted in multiply-accumulates: {'; '.join(record.uncounted)}."
    changes = (
        ("multiply-accumulates", record.before.macs, record.after.macs),
        ("parameters", record.before.params, record.after.params),
        ("units", record.before.units, record.after.units),
    )
    return page_of(
        record,
        title,
        lead,
        (outcome_facts(changes, known), *_widths(record)),
        (*frontier(record, others), curves(record)),
        refusals(record.refused, "channels", "units", "every group of channels"),
        made_by(record, seconds, versions, known),
    )


def page_of(
    record: PlanRecord | MaskRecord | BlockRecord,
    title: str,
    lead: str,
    outcome: tuple[Facts | Figure | Picture | Table, ...],
    middle: tuple[Section, ...],
    refused: Section,
    made: Facts,
) -> str:
    """The HTML of a plan, of units, blocks or single weights."""
    sections = (
        Section("Before and after", "", outcome),
        *middle,
        refused,
        Section("How it was made", "", (made, _options_table(record.options))),
    )
    footer = "Made by mipp; this file is complete and loads nothing."
    return Page(title, lead, sections, footer=footer).html()


def outcome_facts(
    changes: Sequence[tuple[str, float | int, float | int]], measured: Measured
) -> Facts:
    """What was counted and measured. ``changes``: name, number before, number after."""
    shown = [(name, _change(before, after)) for name, before, after in changes]
    if measured.accuracy is not None:
        before, after = measured.accuracy
        shown.append(("accuracy", f"{_percent(before)} → {_percent(after)}"))
    if measured.tuned is not None:
        shown.append(("accuracy, tuned", _percent(measured.tuned)))
    if measured.retrained is not None:
        shown.append(("accuracy, retrained", _percent(measured.retrained)))
    if measured.other is not None:
        name, values = measured.other
        shown.append((name, " → ".join(f"{value:.4g}" for value in values)))
    if measured.tuning is not None:
        shown.append(("tuning", measured.tuning))
    if measured.latency_ms is not None:
        before, after = measured.latency_ms
        shown.append(("ms for one example", f"{before:.3g} → {after:.3g}"))
    return Facts("Before and after", tuple(shown), folded=False)


def _change(before: float | int, after: float | int) -> str:
    share = f" ({after / before:.1%})" if before else ""
    return f"{short(before)} → {short(after)}{share}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def heading(title: str, name: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """The title of a page, and its first line: date, method and budget."""
    budget = options.get("budget") or "no budget"
    what = name or "A model"
    today = datetime.now(UTC).date()
    lead = f"{today.day} {today:%B %Y}. Method {options.get('method', 'unknown')}, budget {budget}."
    return title or f"{what} pruned to {budget}", lead


def _widths(record: PlanRecord) -> tuple[Picture, Table]:
    groups = tuple(reversed(record.summary))
    what = (
        " Nats in the table: information that the units pass to their consumers, per example, and "
        "what is left of it."
        if measured_nats(groups)
        else ""
    )
    caption = (
        "A row is a group of units, as wide as the square root of their number. The solid part "
        "stays; the stronger the colour around it, the larger the share that is removed."
        f"{what} MACs and parameters in the table: of the layers that make or read the group; a "
        "layer between two groups counts in both."
    )
    return picture(groups, caption), _groups(groups)


def measured_nats(rows: Sequence[GroupSummary] | Sequence[LayerSummary]) -> bool:
    """Whether the method measured information."""
    return any(np.isfinite(row.nats_before) for row in rows)


def _groups(groups: Sequence[GroupSummary]) -> Table:
    has_nats = measured_nats(groups)
    made = []
    for row in groups:
        mine = (nats(row.nats_before), nats(row.nats_after), _kept(row)) if has_nats else ()
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
        "units", "left", *(("nats", "nats left", "in %") if has_nats else ()),
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


def refusals(refused: Sequence[Refusal], corner: str, counted: str, everything: str) -> Section:
    """What is not pruned. ``everything``: what can be pruned if nothing is refused."""
    title = "What is refused"
    if not refused:
        return Section(title, f"Nothing: {everything} can be pruned.")
    rows = tuple(
        Row(
            ", ".join(same.listed()),
            (count(same.n_units), Cell(same.whole_reason), Cell(same.remedy or NOTHING)),
        )
        for same in by_reason(refused)
    )
    note = "Left as they are, why, and what helps."
    columns = (counted, "why", "what helps")
    table = Table(corner, columns, rows, note, is_methods=False, name="refused")
    return Section(title, "", (table,))


def made_by(
    record: PlanRecord | MaskRecord | BlockRecord,
    seconds: Mapping[str, float] | None,
    versions: Mapping[str, str] | None,
    measured: Measured,
) -> Facts:
    """Versions, seconds, what was run, and the model's fingerprint."""
    now = current_versions()
    others = versions or {"torch": now["torch"], "Python": now["python"]}
    all_versions = {"mipp": record.mipp_version} | dict(others)
    rows = [("versions", ", ".join(f"{name} {v}" for name, v in all_versions.items()))]
    if seconds:
        rows.append(("seconds", ", ".join(f"{name} {s:.3g}" for name, s in seconds.items())))
    if measured.command:
        rows.insert(0, ("command", measured.command))
    if measured.data:
        rows.append(("data", measured.data))
    rows.append(("fingerprint of the model", record.fingerprint))
    return Facts("Made by", tuple(rows), folded=True)


def _options_table(options: Mapping[str, Any]) -> Table:
    """All settings of a plan."""
    rows = tuple(Row(name, (Cell(_words(value)),)) for name, value in options.items())
    note = "All settings of the plan."
    return Table("option", ("value",), rows, note, is_methods=False, name="options")


def _words(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
