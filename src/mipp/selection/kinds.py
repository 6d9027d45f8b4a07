"""One width for all layers of a kind, so that a single number of a config can say it.

The groups of a kind are spent on as if they were one group. Its curve is the sum of theirs, and
removing its next unit removes the next unit of each of them, in the order of its own curve.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mipp.options import Allocation
from mipp.records import BoolArray, Cost, Curve, IntArray
from mipp.selection.budget import Budget, Limits
from mipp.selection.spend_units import CostModel, spend


def kinds(
    names: Mapping[int, str], n_units: Mapping[int, int], limits: Limits
) -> list[tuple[int, ...]]:
    """Groups of one size whose names differ in numbers alone; those that stay whole are apart.

    Args:
        names: Group -> its name.
        n_units: Group -> its number of units.
        limits: Says which groups stay whole.

    Examples:
        >>> kinds({0: "layers.0.mlp", 1: "layers.1.mlp", 2: "head"}, {0: 8, 1: 8, 2: 8}, Limits())
        [(0, 1), (2,)]
    """
    found: dict[tuple[str, int, bool], list[int]] = {}
    for group, name in names.items():
        spared = group in limits.protected
        found.setdefault((re.sub(r"\d+", "#", name), n_units[group], spared), []).append(group)
    return [tuple(members) for members in found.values()]


def spend_by_kinds(
    curves: Mapping[int, Curve],
    n_units: Mapping[int, int],
    model: CostModel,
    budget: Budget,
    names: Mapping[int, str],
    limits: Limits | None = None,
    allocation: Allocation = "priced",
    gone: Mapping[int, int] | None = None,
) -> dict[int, BoolArray]:
    """Chooses the units that stay, as many in every group of a kind.

    The cost is never above the budget. It may be below it by one unit of each group of a kind.

    Args:
        curves: Group -> its nats lost, and the order in which its units are removed.
        n_units: Group -> its number of units.
        model: The costs. It is left with exactly the units that stay.
        budget: Bounds, or a share of information, to meet.
        names: Group -> its name.
        limits: How narrow each group may become.
        allocation: How the budget is spread over the kinds.
        gone: Group -> number of units at the start of the curve's order that are removed already.

    Returns:
        Group -> mask of the units that stay, shape ``(n_units,)``.

    Raises:
        BudgetError: The budget cannot be met; the text has the smallest that can.
    """
    limits, gone = limits or Limits(), gone or {}
    members = kinds({group: names[group] for group in curves}, n_units, limits)
    protected = {k for k, groups in enumerate(members) if groups[0] in limits.protected}
    orders = [[curves[group].order for group in groups] for groups in members]
    spent = spend(
        {k: _sum([curves[group] for group in groups]) for k, groups in enumerate(members)},
        {k: n_units[groups[0]] for k, groups in enumerate(members)},
        _Together(model, members, orders),
        budget,
        replace(limits, protected=frozenset(protected)),
        allocation,
        # kinds lose as many units in every round
        {k: min(gone.get(group, 0) for group in groups) for k, groups in enumerate(members)},
    )
    removed = {g: int((~spent[k]).sum()) for k, groups in enumerate(members) for g in groups}
    keep = {}
    for group, curve in curves.items():
        mask = np.ones(n_units[group], dtype=bool)
        mask[curve.order[: removed[group]]] = False
        keep[group] = mask
    return keep


def _sum(curves: Sequence[Curve]) -> Curve:
    """The curve of several groups that lose one unit each at a time."""
    steps = min(len(curve.order) for curve in curves)
    return Curve(
        order=np.arange(steps),
        nats_lost=np.sum([curve.nats_lost[: steps + 1] for curve in curves], axis=0),
        total=sum(curve.total for curve in curves),
        consumer_lost=np.concatenate([c.consumer_lost[: steps + 1] for c in curves], axis=1),
        consumer_total=np.concatenate([curve.consumer_total for curve in curves]),
    )


class _Together:
    """Costs of kinds: the ``n``-th unit of a kind is the ``n``-th that each of its groups loses."""

    def __init__(
        self, model: CostModel, members: Sequence[Sequence[int]], orders: Sequence[list[IntArray]]
    ) -> None:
        self._model, self._orders, self._members = model, orders, members

    def _units(self, kind: int, step: int) -> list[tuple[int, int]]:
        pairs = zip(self._members[kind], self._orders[kind], strict=True)
        return [(group, int(order[step])) for group, order in pairs]

    def cost(self) -> Cost:
        """Cost of what is left."""
        return self._model.cost()

    def saving(self, group: int, unit: int) -> Cost:
        """The cost that removing the units would save, each by itself."""
        saved = [self._model.saving(*each) for each in self._units(group, unit)]
        latency = [each.latency for each in saved if each.latency is not None]
        return Cost(
            macs=sum(each.macs for each in saved),
            params=sum(each.params for each in saved),
            units=sum(each.units for each in saved),
            latency=sum(latency) if latency else None,
        )

    def remove(self, group: int, unit: int) -> None:
        """Removes the units."""
        for each in self._units(group, unit):
            self._model.remove(*each)

    def restore(self, group: int, unit: int) -> None:
        """Puts the units back."""
        for each in reversed(self._units(group, unit)):
            self._model.restore(*each)

    def empties(self, group: int, unit: int) -> bool:
        """Whether some layer would have nothing left without one of the units."""
        return any(self._model.empties(*each) for each in self._units(group, unit))
