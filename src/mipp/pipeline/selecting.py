"""From curves and a budget to the units that stay."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mipp import graph, methods, selection
from mipp.errors import InputError
from mipp.pipeline.curves import Curves
from mipp.pipeline.latency import Speed
from mipp.pipeline.options import Options
from mipp.pipeline.usable import protected
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
    allocation = settings.allocation
    if allocation is None and isinstance(settings.method, methods.Method):
        allocation = "global" if settings.method.ranking == "global" else "uniform"
    n_units = {group.index: group.n_units for group in traced.groups}
    limits = selection.Limits(
        settings.min_units, settings.round_to, frozenset(protected(traced, settings.protect))
    )
    costs = graph.CostModel(traced, keep, None if speed is None else speed.table)
    gone = {group: int((~units).sum()) for group, units in (keep or {}).items()}
    return selection.spend(curves, n_units, costs, budget, limits, allocation or "priced", gone)


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
    gone: int,
) -> selection.Budget:
    """The budget after ``share`` of the rounds, the same factor in each, less ``gone`` units.

    ``traced``, ``full``: the whole model and its cost.
    """
    bounds = {}
    for name, target in targets.items():
        whole = getattr(full, name)
        bound = whole * (target / whole) ** share
        bounds[name] = (bound - gone if name == "units" else bound, False)
    information = None if wanted.information is None else wanted.information**share
    widths = wanted.widths
    if widths is not None and share < 1:
        sizes = {g.name: g.n_units for g in traced.groups}
        # nothing can be measured behind an empty layer: only the last round may leave one
        widths = {
            n: max(1, math.ceil(sizes[n] * (w / sizes[n]) ** share - 1e-9))
            for n, w in widths.items()
        }
    return replace(wanted, bounds=bounds, information=information, widths=widths)
