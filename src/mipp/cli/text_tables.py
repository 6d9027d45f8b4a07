"""Tables for people; at most 80 columns wide unless names are long."""

import math
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from mipp.cli.looks import HELPS, REFUSED, SHRANK, Names, change, kept, near_path
from mipp.methods import Facts
from mipp.records import ChannelGraph, Cost, Group, GroupSummary, Refusal
from mipp.refusals import by_reason
from mipp.report.tables import short
from mipp.surgery.block_record import BlockSummary
from mipp.surgery.mask_record import LayerSummary


def groups_after(summary: Sequence[GroupSummary]) -> Table:
    """What a plan does to each group, outputs first; nats only if the method measures them."""
    nats = _information(summary)
    table = new_table("group", units="right", **nats, MACs="right", params="right")
    for row in summary:
        table.add_row(
            Names((row.name,)),
            change(str(row.units_before), str(row.units_after), row.units_after < row.units_before),
            *(_kept(row) for _ in nats),
            _smaller(row.macs_before, row.macs_after),
            _smaller(row.params_before, row.params_after),
        )
    what = "information: share of the nats that is kept. " if nats else ""
    table.caption = (
        f"{what}MACs, params: of the layers that make or read the group; a layer between two "
        "groups counts in both."
    )
    return table


def layers_after(summary: Sequence[LayerSummary]) -> Table:
    """What a plan of single weights does to each layer; nats only if the method measures them."""
    nats = _information(summary)
    table = new_table("layer", weights="right", left="right", **nats, empty="right")
    for row in summary:
        table.add_row(
            Names((row.name,)),
            _smaller(row.weights_before, row.weights_after),
            percent(share(row.weights_before, row.weights_after)),
            *(_kept(row) for _ in nats),
            str(row.empty_rows),
        )
    what = "information: share of the nats that is kept, output by output. " if nats else ""
    table.caption = f"{what}empty: outputs that read nothing any more."
    return table


def blocks_after(summary: Sequence[BlockSummary]) -> Table:
    """What a plan does to each block: its place in the order of removal, and what is lost."""
    names = ("taken out", "nats alone", "nats by then", "MACs", "params")
    table = new_table("block", **dict.fromkeys(names, "right"))
    for row in summary:
        table.add_row(
            Names((row.name,)),
            Text(f"{row.removed}.", style=SHRANK) if row.removed else "stays",
            short(row.nats_alone, 4),
            short(row.nats_then, 4) if row.removed else "",
            short(row.macs),
            short(row.params),
        )
    table.caption = (
        "nats: divergence of the predictions from those of the whole model before anything is "
        "fitted; with this block gone alone, and with all that were taken out by then."
    )
    return table


def _information(summary: Sequence[GroupSummary] | Sequence[LayerSummary]) -> dict[str, str]:
    """The column of information, where any was measured."""
    measured = not all(math.isnan(row.nats_before) for row in summary)
    return {"information": "right"} if measured else {}


def _kept(row: GroupSummary | LayerSummary) -> Text:
    left = share(row.nats_before, row.nats_after)
    return kept(percent(left), left)


def _smaller(before: float | int, after: float | int) -> Text:
    return change(short(before), short(after), after < before)


def groups_of(graph: ChannelGraph, costs: Sequence[Cost]) -> Table:
    """The groups of a model, outputs first, with the layers that make and read their units."""
    layers = {"made by": "left", "read by": "left"}
    table = new_table("group", units="right", **layers, MACs="right", params="right")
    for group, cost in zip(graph.groups, costs, strict=True):
        table.add_row(
            Names((group.name,)),
            str(group.n_units),
            _some(producers(group)),
            _some([graph.consumers[index].name for index in group.consumers]),
            short(cost.macs),
            short(cost.params),
        )
    if graph.inexact:
        names = ", ".join(graph.groups[index].name for index in sorted(graph.inexact))
        table.caption = f"Not exact, since norms go across the units: {names}."
    return table


def methods(rows: Sequence[Facts]) -> Table:
    """What each method is, see `mipp.methods.Facts`."""
    table = new_table("method", needs="left", untrained="left", ranking="left", rounds="right",
                   what="left")  # fmt: skip
    table.columns[0].no_wrap = True
    for row in rows:
        untrained = "yes" if row.at_init else "no"
        table.add_row(row.name, row.needs, untrained, row.ranking, str(row.rounds), row.summary)
    table.caption = (
        "needs: beside the weights. untrained: works on a net at initialisation. ranking: over "
        "all groups (global), or within each (local). Sources are in --json."
    )
    return table


def refusals(refused: Sequence[Refusal], what: str = "units") -> Table:
    """What is not pruned, why, and what helps; one row for each reason.

    Args:
        refused: as in a plan.
        what: units, blocks or weights.
    """
    table = new_table("not pruned", **{what: "right"}, why="left")
    for same in by_reason(refused):
        number = str(same.n_units) if what == "units" else exact(same.n_units)
        why = Text(near_path(same.whole_reason))
        if same.remedy:
            why.append(f"\nwhat helps: {same.remedy}", style=HELPS)
        table.add_row(_some(same.listed(), 12, REFUSED), number, why)
    return table


def totals(rows: Sequence[tuple[str, str, str, str, str]]) -> Table:
    """Rows of what, before, after and what is left, and the style of the last two."""
    table = new_table("", before="right", after="right", left="right")
    for what, before, after, left, style in rows:
        table.add_row(what, before, Text(after, style=style), Text(left, style=style))
    return table


def latencies(times: Mapping[str, Mapping[str, float]], threads: int) -> Table:
    """Milliseconds by model and by what runs it."""
    runners = list(next(iter(times.values())))
    title = f"ms for one example, {threads} CPU thread{'s' * (threads > 1)}"
    table = new_table(title, **dict.fromkeys(runners, "right"))
    for name, row in times.items():
        table.add_row(name, *(f"{row[runner]:.3f}" for runner in runners))
    return table


def producers(group: Group) -> list[str]:
    """Names of the layers whose weights make the group's units."""
    return list(dict.fromkeys(key.tensor.rpartition(".")[0] for key in group.producers))


def share(before: float | int, after: float | int) -> float | None:
    """The share that is left; None where it was not measured."""
    if not (math.isfinite(before) and math.isfinite(after)):
        return None
    return after / before if before else 1.0


def percent(value: float | None) -> str:
    """``98.7 %``."""
    return "–" if value is None else f"{100 * value:.1f} %"


def exact(value: float | int) -> str:
    """``431,080``."""
    return f"{value:,.0f}"


def new_table(first: str, **columns: str) -> Table:
    """A table in the style of all commands: the first column, and the others with their side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column(first, overflow="fold")
    for name, side in columns.items():
        table.add_column(
            name,
            justify="right" if side == "right" else "left",
            no_wrap=side == "right",
            overflow="fold",
        )
    return table


def _some(names: Sequence[str], most: int = 4, style: str = "") -> Names:
    shown = list(names)
    if len(names) > most:
        shown = [*names[: most - 1], f"and {len(names) - most + 1} more"]
    return Names(tuple(shown), style)
