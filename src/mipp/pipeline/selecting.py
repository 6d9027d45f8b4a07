"""From curves and a budget to the units that stay."""

from collections.abc import Mapping

from mipp import graph, methods, selection
from mipp.pipeline.curves import Curves
from mipp.pipeline.options import Options
from mipp.pipeline.usable import protected
from mipp.records import BoolArray, ChannelGraph, Curve, Keep


def select(
    curves: Curves, traced: ChannelGraph, budget: selection.Budget, settings: Options
) -> tuple[dict[int, BoolArray], dict[int, Curve]]:
    """One round: curves for all outputs, a first choice, then again for the outputs it keeps."""
    keep: Keep = {}
    for _ in range(settings.passes if settings.method == "mipp" else 1):
        made = curves.make(keep, budget.information)
        keep = spent(made, traced, budget, settings)
    return dict(keep), made


def spent(
    curves: Mapping[int, Curve],
    traced: ChannelGraph,
    budget: selection.Budget,
    settings: Options,
) -> dict[int, BoolArray]:
    """The units that stay when the budget is spent on these curves, by group index."""
    allocation = settings.allocation
    if allocation is None and settings.method != "mipp":
        allocation = methods.get(settings.method).allocation
    n_units = {group.index: group.n_units for group in traced.groups}
    limits = selection.Limits(
        settings.min_units, settings.round_to, frozenset(protected(traced, settings.protect))
    )
    costs = graph.CostModel(traced)
    return selection.spend(curves, n_units, costs, budget, limits, allocation or "priced")
