"""From curves and a budget to the units that stay."""

from collections.abc import Mapping
from dataclasses import replace

from mipp import graph, methods, selection
from mipp.pipeline.curves import Curves
from mipp.pipeline.options import Options
from mipp.pipeline.usable import protected
from mipp.records import BoolArray, ChannelGraph, Cost, Curve, Keep


def select(
    curves: Curves, traced: ChannelGraph, budget: selection.Budget, settings: Options
) -> tuple[dict[int, BoolArray], dict[int, Curve]]:
    """One round: curves for all outputs, a first choice, then again for the outputs it keeps."""
    keep: Keep = {}
    for _ in range(settings.passes):
        made = curves.make(keep, budget.information)
        keep = spent(made, traced, budget, settings)
    return dict(keep), made


def spent(
    curves: Mapping[int, Curve],
    traced: ChannelGraph,
    budget: selection.Budget,
    settings: Options,
    keep: Keep | None = None,
) -> dict[int, BoolArray]:
    """The units that stay when the budget is spent on these curves, by group index.

    ``keep``: those that are left now; the others come first in the curves.
    """
    allocation = settings.allocation
    if allocation is None and isinstance(settings.method, methods.Method):
        allocation = "global" if settings.method.ranking == "global" else "uniform"
    n_units = {group.index: group.n_units for group in traced.groups}
    limits = selection.Limits(
        settings.min_units, settings.round_to, frozenset(protected(traced, settings.protect))
    )
    costs = graph.CostModel(traced, keep)
    gone = {group: int((~units).sum()) for group, units in (keep or {}).items()}
    return selection.spend(curves, n_units, costs, budget, limits, allocation or "priced", gone)


def part_way(
    wanted: selection.Budget, targets: Mapping[str, float], full: Cost, share: float, gone: int
) -> selection.Budget:
    """The budget after ``share`` of the rounds, the same factor in each, less ``gone`` units."""
    bounds = {}
    for name, target in targets.items():
        whole = getattr(full, name)
        bound = whole * (target / whole) ** share
        bounds[name] = (bound - gone if name == "units" else bound, False)
    information = None if wanted.information is None else wanted.information**share
    return replace(wanted, bounds=bounds, information=information)
