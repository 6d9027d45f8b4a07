"""A plan as it is shown in a notebook: plain HTML that reads well on light and on dark ground."""

import math
from collections.abc import Sequence
from html import escape

from mipp.records import Cost, Refusal
from mipp.refusals import by_reason
from mipp.report.tables import NOTHING, short
from mipp.surgery.block_record import BlockRecord
from mipp.surgery.mask_record import MaskRecord
from mipp.surgery.record import PlanRecord

MANY = 40
"""Of more groups than this, the middle ones are left out."""

_STYLE = """<style scoped>
.mipp-plan{font-size:0.92em;line-height:1.4;color:inherit}
.mipp-plan table{border-collapse:collapse;color:inherit;background:transparent;margin:.4em 0}
.mipp-plan th,.mipp-plan td{padding:.15em .7em;text-align:right;border:0;background:transparent;
 color:inherit;border-bottom:1px solid rgba(127,127,127,.3)}
.mipp-plan th{font-weight:600;border-bottom:1px solid rgba(127,127,127,.8)}
.mipp-plan th:first-child,.mipp-plan td:first-child,.mipp-plan .words{text-align:left}
.mipp-plan .bar{display:inline-block;width:6em;height:.65em;background:rgba(127,127,127,.25)}
.mipp-plan .bar i{display:block;height:100%;background:#d1573a}
.mipp-plan small{opacity:.75}
</style>"""


def plan_notebook(record: PlanRecord) -> str:
    """Groups, cost before and after, and refusals of a plan of units, as HTML without scripts.

    Args:
        record: the plan.
    """
    measured = any(math.isfinite(row.nats_before) for row in record.summary)
    head = ["group", "units", "kept", *(["information"] if measured else []), "MACs", "params"]
    rows = [
        [
            escape(row.name),
            f"{row.units_before} → {row.units_after}",
            _bar(row.units_after, row.units_before),
            *([_share(row.nats_after, row.nats_before)] if measured else []),
            f"{short(row.macs_before)} → {short(row.macs_after)}",
            f"{short(row.params_before)} → {short(row.params_after)}",
        ]
        for row in record.summary
    ]
    cost = _costs(record.before, record.after, "units")
    return _page("Plan", record.options, cost, head, rows, record.notes(), record.refused, "units")


def _costs(before: Cost, after: Cost, units: str) -> list[tuple[str, float | int, float | int]]:
    """MACs, parameters, units and, where they were timed, milliseconds."""
    cost: list[tuple[str, float | int, float | int]] = [
        ("MACs", before.macs, after.macs),
        ("parameters", before.params, after.params),
        (units, before.units, after.units),
    ]
    if before.latency is not None and after.latency is not None:
        cost.append(("ms", before.latency, after.latency))
    return cost


def weights_notebook(record: MaskRecord) -> str:
    """Layers, weights before and after, and refusals of a plan of single weights, as HTML.

    Args:
        record: the plan.
    """
    measured = any(math.isfinite(row.nats_before) for row in record.summary)
    head = ["layer", "weights", "kept", *(["information"] if measured else []), "empty"]
    rows = [
        [
            escape(row.name),
            f"{short(row.weights_before)} → {short(row.weights_after)}",
            _bar(row.weights_after, row.weights_before),
            *([_share(row.nats_after, row.nats_before)] if measured else []),
            str(row.empty_rows),
        ]
        for row in record.summary
    ]
    cost: list[tuple[str, float | int, float | int]] = [
        ("weights that are not zero", record.before.weights, record.after.weights),
        ("parameters without zeros", record.before.params, record.after.params),
    ]
    title = f"Plan of single weights ({record.granularity})"
    return _page(title, record.options, cost, head, rows, record.notes(), record.refused, "weights")


def blocks_notebook(record: BlockRecord) -> str:
    """Blocks, cost before and after, and refusals of a plan of blocks, as HTML.

    Args:
        record: the plan.
    """
    rows = [
        [
            escape(row.name),
            escape(row.kind),
            f"{row.removed}." if row.removed else "stays",
            short(row.nats_alone, 4),
            short(row.nats_then, 4) if row.removed else "",
            short(row.macs),
            short(row.params),
        ]
        for row in record.summary
    ]
    cost = _costs(record.before, record.after, "blocks")
    head = ["block", "class", "taken out", "nats alone", "nats by then", "MACs", "params"]
    notes = [f"lost before a refit: {record.nats:.4g} nats for each prediction", *record.notes()]
    title = "Plan of blocks"
    return _page(title, record.options, cost, head, rows, notes, record.refused, "blocks")


def _page(
    title: str,
    options: object,
    cost: Sequence[tuple[str, float | int, float | int]],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    refused: Sequence[Refusal],
    what: str,
) -> str:
    given = options if isinstance(options, dict) else {}
    said = f"method {given.get('method', 'unknown')}, budget {given.get('budget') or 'none'}"
    totals = [
        [name, short(before), short(after), _share(after, before)] for name, before, after in cost
    ]
    below = "".join(f"<div><small>{escape(note)}</small></div>" for note in notes)
    return (
        f'<div class="mipp-plan">{_STYLE}<div><b>{escape(title)}</b>: {escape(said)}</div>'
        f"{_table(['', 'before', 'after', 'left'], totals)}{_table(head, _middle(rows, len(head)))}"
        f"{below}{_refusals(refused, what)}</div>"
    )


def _refusals(refused: Sequence[Refusal], what: str) -> str:
    if not refused:
        return ""
    rows = [
        [
            escape(", ".join(same.listed())),
            f"{same.n_units:,}",
            f'<span class="words">{escape(same.whole_reason)}</span>',
            escape(same.remedy) or NOTHING,
        ]
        for same in by_reason(refused)
    ]
    count = len({each.name for each in refused})
    return (
        f"<details><summary>not pruned: {count} group{'s' * (count != 1)}, "
        f"{len(rows)} reason{'s' * (len(rows) != 1)}</summary>"
        f"{_table(['not pruned', what, 'why', 'what helps'], rows, words=(2, 3))}</details>"
    )


def _middle(rows: Sequence[Sequence[str]], width: int) -> list[Sequence[str]]:
    """The rows, or the first and the last of many."""
    if len(rows) <= MANY:
        return list(rows)
    gap = [f"... {len(rows) - MANY} more ...", *[""] * (width - 1)]
    return [*rows[: MANY // 2], gap, *rows[-MANY // 2 :]]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = ()) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="words"' * (place in words) for place in range(len(cells))]
        return "".join(f"<{tag}{k}>{c}</{tag}>" for k, c in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    top = line("th", [escape(name) for name in head])
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _bar(after: float | int, before: float | int) -> str:
    share = after / before if before else 1.0
    return f'<span class="bar" title="{share:.1%}"><i style="width:{100 * share:.1f}%"></i></span>'


def _share(after: float | int, before: float | int) -> str:
    if not (math.isfinite(after) and math.isfinite(before)):
        return NOTHING
    return f"{100 * after / before:.1f} %" if before else "100.0 %"
