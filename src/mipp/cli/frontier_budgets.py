"""Budgets around the requested one, which one measurement serves as well."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from mipp import graph, planning
from mipp.options import BlockOptions, Options, WeightOptions
from mipp.prunable import protected
from mipp.records import ChannelGraph
from mipp.selection import Budget

SHARES = (0.85, 0.7, 0.5, 0.35, 0.25, 0.15, 0.08)
ROOM = 1.05
"""How far above the smallest model that there can be a budget has to be."""


def other_budgets(
    budget: Budget,
    options: Options | WeightOptions | BlockOptions,
    model: nn.Module,
    batches: Iterable[Any],
) -> list[Budget]:
    """Shares of the same resource, as far down as the model can get.

    None where other budgets would need other measurements, or where no information is measured.

    Args:
        budget: the requested one.
        options: of the plan.
        model: to be pruned.
        batches: of calibration; a few examples are read.
    """
    if not isinstance(options, Options) or not options.method.name.startswith("mipp"):
        return []
    again = options.passes > 1 or options.rounds > 1 or options.order == "ordered"
    alone = len(budget.bounds) == 1 and budget.information is None and not budget.parts
    kind = next(iter(budget.bounds), "")
    if again or options.stop is not None or not alone or kind not in ("macs", "params", "units"):
        return []
    few = planning.calibration(model, batches, 4)
    traced = planning.prunable_graph(model, few, **options.wider)
    whole = graph.cost(traced)
    least = getattr(_smallest(traced, options), kind) / getattr(whole, kind)
    wanted = budget.limits(whole)[kind] / getattr(whole, kind)
    return [
        Budget({kind: (share, True)})
        for share in SHARES
        if share > ROOM * least and abs(share - wanted) > 0.02
    ]


def _smallest(traced: ChannelGraph, options: Options) -> Any:
    """The cost with as few units in each group as the options allow."""
    fewest, whole = max(options.min_units, options.round_to, 1), protected(traced, options.protect)
    keep = {
        group.index: np.arange(group.n_units) < min(fewest, group.n_units)
        for group in traced.groups
        if group.index not in whole
    }
    return graph.cost(traced, keep)
