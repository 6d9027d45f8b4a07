"""From curves and a budget to the units that stay."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mipp import graph, methods, selection
from mipp.errors import BudgetError, InputError
from mipp.planning.curves import Curves
from mipp.planning.latency_budget import Speed
from mipp.planning.options import Options
from mipp.planning.prunable import protected
from mipp.records import BoolArray, ChannelGraph, Cost, Curve, Keep


def select(
    curves: Curves,
    traced: ChannelGraph,
    budget: selection.Budget,
    settings: Options,
    speed: Speed | None = None,
) -> tuple[dict[int, BoolArray], dict[int, Curve]]:
    """One round: curves for all outputs, a first choice, then again for the outputs it keeps."""
    keep: Keep = {}
    for _ in range(settings.passes):
        made = curves.make(keep, budget.information)
        keep = spent(made, traced, budget, settings, speed=speed)
    return dict(keep), made


def spent(
    curves: Mapping[int, Curve],
    traced: ChannelGraph,
    budget: selection.Budget,
    settings: Options,
    keep: Keep | None = None,
    speed: Speed | None = None,
) -> dict[int, BoolArray]:
    """The units that stay when the budget is spent on these curves, by group index.

    ``keep``: those that are left now; the others come first in the curves. ``speed``: whose table
    tells the latency, where the budget has one.
    """
    if budget.widths is not None:
        return _in_widths(curves, traced, budget.widths)
    if budget.parts is not None:
        return _in_parts(curves, traced, budget.parts, settings, keep)
    n_units = {group.index: group.n_units for group in traced.groups}
    costs = graph.CostModel(traced, keep, None if speed is None else speed.table)
    gone = {group: int((~units).sum()) for group, units in (keep or {}).items()}
    limits, allocation = _limits(traced, settings), _allocation(settings)
    return selection.spend(curves, n_units, costs, budget, limits, allocation, gone)


def _limits(traced: ChannelGraph, settings: Options) -> selection.Limits:
    spared = frozenset(protected(traced, settings.protect))
    return selection.Limits(settings.min_units, settings.round_to, spared)


def _allocation(settings: Options) -> selection.Allocation:
    if settings.allocation is None and isinstance(settings.method, methods.Method):
        return "global" if settings.method.ranking == "global" else "uniform"
    return settings.allocation or "priced"


def _in_parts(
    curves: Mapping[int, Curve],
    traced: ChannelGraph,
    parts: Mapping[str, selection.Budget],
    settings: Options,
    keep: Keep | None,
) -> dict[int, BoolArray]:
    """Each pattern's groups by their own budget; units cost the same, whatever else is removed."""
    found = {group.index: np.ones(group.n_units, dtype=bool) for group in traced.groups} | dict(
        keep or {}
    )
    for pattern, part in parts.items():
        mine = protected(traced, [pattern])
        n_units = {g.index: g.n_units for g in traced.groups if g.index in mine}
        (bound, is_share) = part.bounds["units"]
        bound = bound * sum(n_units.values()) if is_share else bound
        others = sum(int(units.sum()) for index, units in found.items() if index not in mine)
        try:
            found |= selection.spend(
                {index: curve for index, curve in curves.items() if index in mine},
                n_units,
                graph.CostModel(traced, found),
                selection.Budget({"units": (others + bound, False)}),
                _limits(traced, settings),
                _allocation(settings),
                {index: int((~found[index]).sum()) for index in mine},
            )
        except BudgetError as error:
            raise BudgetError(
                f"{pattern!r} cannot come down to {bound:.6g} of its {sum(n_units.values())} units "
                f"(with those of all other groups: {error})"
            ) from error
    return found


def _in_widths(
    curves: Mapping[int, Curve], traced: ChannelGraph, widths: Mapping[str, int]
) -> dict[int, BoolArray]:
    keep = {group.index: np.ones(group.n_units, dtype=bool) for group in traced.groups}
    for group in traced.groups:
        lost = group.n_units - widths.get(group.name, group.n_units)
        order = curves[group.index].order if group.index in curves else np.zeros(0, dtype=np.int64)
        if lost > len(order):
            raise InputError(
                f"widths= wants {group.n_units - lost} of the {group.n_units} units of "
                f"{group.name}, and the method scores only {len(order)} of them. Leave the group "
                "out of widths=, or use another method."
            )
        keep[group.index][order[:lost]] = False
    return keep


def part_way(
    wanted: selection.Budget,
    targets: Mapping[str, float],
    traced: ChannelGraph,
    full: Cost,
    share: float,
    gone: Mapping[str, int],
) -> selection.Budget:
    """The budget after ``share`` of the rounds, the same factor in each.

    ``traced``, ``full``: the whole model and its cost. ``gone``: name of each group that is not in
    the graph of this round any more -> units that it has left.
    """
    bounds = {}
    for name, target in targets.items():
        whole = getattr(full, name)
        bound = whole * (target / whole) ** share
        bounds[name] = (bound - sum(gone.values()) if name == "units" else bound, False)
    information = None if wanted.information is None else wanted.information**share
    widths = wanted.widths
    if widths is not None and share < 1:
        sizes = {g.name: g.n_units for g in traced.groups}
        # nothing can be measured behind an empty layer: only the last round may leave one
        widths = {
            n: max(1, math.ceil(sizes[n] * (w / sizes[n]) ** share - 1e-9))
            for n, w in widths.items()
        }
    parts = wanted.parts
    if parts is not None:
        parts = {p: _part_of(part, p, traced, share, gone) for p, part in parts.items()}
    return replace(wanted, bounds=bounds, information=information, widths=widths, parts=parts)


def _part_of(
    part: selection.Budget,
    pattern: str,
    traced: ChannelGraph,
    share: float,
    gone: Mapping[str, int],
) -> selection.Budget:
    mine = [traced.groups[index] for index in sorted(protected(traced, [pattern]))]
    whole = sum(group.n_units for group in mine)
    value, is_share = part.bounds["units"]
    target = value * whole if is_share else min(value, whole)
    left = sum(gone.get(group.name, 0) for group in mine)
    return replace(part, bounds={"units": (whole * (target / whole) ** share - left, False)})
