"""Spend a budget: how many units of each group to remove so that the fewest nats are lost.

Every group has a curve of nats lost. Units are removed one after the other, always where the next
stretch of the curve's lower convex hull loses the fewest nats for the cost it saves at the widths
reached so far. That path is walked once: a smaller budget stops further along the same path, so
nested budgets keep nested units. (Walking it is the bisection over a price per unit of cost, with
every price visited in turn; see docs/research/method.md.)
"""

import heapq
import itertools
import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from mipp.errors import BudgetError
from mipp.options import Allocation
from mipp.records import BoolArray, Cost, Curve, FloatArray
from mipp.selection.budget import Budget, Limits
from mipp.selection.eliminate import removable


@runtime_checkable
class CostModel(Protocol):
    """Exact costs of the units that are left. At first these are all units."""

    def cost(self) -> Cost:
        """Cost of what is left."""
        ...

    def saving(self, group: int, unit: int) -> Cost:
        """The cost that removing this unit now would save."""
        ...

    def remove(self, group: int, unit: int) -> None:
        """Removes the unit."""
        ...

    def restore(self, group: int, unit: int) -> None:
        """Puts a removed unit back."""
        ...

    def empties(self, group: int, unit: int) -> bool:
        """Whether some layer would have nothing left without this unit."""
        ...


def spend(
    curves: Mapping[int, Curve],
    n_units: Mapping[int, int],
    model: CostModel,
    budget: Budget,
    limits: Limits | None = None,
    allocation: Allocation = "priced",
    gone: Mapping[int, int] | None = None,
) -> dict[int, BoolArray]:
    """Chooses the units that stay.

    The cost is never above the budget, and putting back the last unit removed would exceed it.

    Args:
        curves: Group -> its nats lost, and the order in which its units are removed.
        n_units: Group -> its number of units.
        model: The costs. It is left with exactly the units that stay.
        budget: Bounds, or a share of information, to meet.
        limits: How narrow each group may become.
        allocation: How the budget is spread over the groups; for ``kinds`` see `spend_by_kinds`.
        gone: Group -> number of units at the start of the curve's order that are removed already,
            from ``model`` too. They never return.

    Returns:
        Group -> mask of the units that stay, shape ``(n_units,)``.

    Raises:
        BudgetError: The budget cannot be met; the text has the smallest that can.
    """
    assert allocation != "kinds"
    limits = limits or Limits()
    bounds = budget.limits(model.cost())
    start = {g: (gone or {}).get(g, 0) for g in curves}
    widths = {}
    for group, curve in curves.items():
        most = len(curve.order)
        if budget.information is not None:
            most = min(most, removable(curve, budget.information))
        allowed = limits.widths(group, n_units[group])
        widths[group] = [start[group], *(w for w in allowed if start[group] < w <= most)]
    walk = _Walk(curves, model, bounds, start, may_empty=limits.min_units == 0)
    if not bounds:
        for group, allowed in widths.items():
            walk.take(group, allowed[-1])
    elif allocation in ("priced", "global"):
        _priced(walk, widths, by_cost=allocation == "priced")
    else:
        _equal(walk, widths, n_units, allocation)
    keep = {}
    for group, curve in curves.items():
        mask = np.ones(n_units[group], dtype=bool)
        mask[curve.order[: walk.removed[group]]] = False
        keep[group] = mask
    return keep


class _Walk:
    """How many units of each group are removed so far, and what is left to save."""

    def __init__(
        self,
        curves: Mapping[int, Curve],
        model: CostModel,
        bounds: Mapping[str, float],
        start: Mapping[int, int],
        *,
        may_empty: bool,
    ) -> None:
        self.curves, self.model, self.bounds, self.may_empty = curves, model, bounds, may_empty
        self.removed = dict(start)
        self.full = model.cost()

    def unmet(self) -> list[str]:
        """The resources that are still above their bound (a rounding error apart)."""
        cost = self.model.cost()
        return [r for r, b in self.bounds.items() if getattr(cost, r) > b * (1 + 1e-12) + 1e-9]

    def take(self, group: int, removed: int) -> None:
        """Moves the group to ``removed`` units removed, in the order of its curve.

        Stops short of a unit that is the last one of some layer, unless layers may be emptied.
        """
        order = self.curves[group].order
        for n in range(self.removed[group], removed):
            if not self.may_empty and self.model.empties(group, int(order[n])):
                self.removed[group] = n
                return
            self.model.remove(group, int(order[n]))
        for n in range(self.removed[group] - 1, removed - 1, -1):
            self.model.restore(group, int(order[n]))
        self.removed[group] = removed

    def saving(self, group: int, resources: list[str]) -> float:
        """Share of the whole model that the group's next unit saves, over the unmet resources."""
        order = self.curves[group].order
        cost = self.model.saving(group, int(order[self.removed[group]]))
        return sum(getattr(cost, r) / getattr(self.full, r) for r in resources)

    def unreachable(self) -> BudgetError:
        """The error that says what was requested and what is possible."""
        cost = self.model.cost()
        requested = ", ".join(f"{r} <= {_amount(r, b)}" for r, b in self.bounds.items())
        reached = ", ".join(
            f"{r} = {_amount(r, getattr(cost, r))} "
            f"({100 * getattr(cost, r) / getattr(self.full, r):.3g}%)"
            for r in self.bounds
        )
        return BudgetError(
            f"The budget {requested} cannot be reached: the smallest is {reached}. Ask for that or "
            "more, or relax min_units, round_to, protect, the stop rule or the information share."
        )


def _amount(resource: str, value: float | int) -> str:
    return f"{value:.4g} ms" if resource == "latency" else f"{math.ceil(value):,}"


def _priced(walk: _Walk, widths: Mapping[int, list[int]], by_cost: bool) -> None:
    """Walks the path of least nats per cost saved until the budget is met.

    Savings only shrink as the neighbours get narrower, so a price computed earlier is a lower
    bound, and only the lowest ones need to be computed again (a lazy heap).
    """
    stretches = {g: _stretches(walk.curves[g], widths[g]) for g in widths}
    at = dict.fromkeys(widths, 0)
    resources = walk.unmet()
    while resources:

        def price(group: int, resources: list[str] = resources) -> float:
            slope = stretches[group][at[group]][1]
            if not by_cost:
                return slope
            saved = walk.saving(group, resources)
            return slope / saved if saved > 0 else math.inf

        heap = [(price(g), g) for g in widths if at[g] < len(stretches[g])]
        heapq.heapify(heap)
        met_one = False
        while heap and not met_one:
            _, group = heapq.heappop(heap)
            fresh = price(group)
            if heap and fresh > heap[0][0]:
                heapq.heappush(heap, (fresh, group))
                continue
            before = walk.removed[group]
            target = stretches[group][at[group]][0]
            walk.take(group, target)
            stuck = walk.removed[group] < target
            at[group] = len(stretches[group]) if stuck else at[group] + 1
            met_one = walk.unmet() != resources
            if met_one and not walk.unmet():
                _give_back(walk, group, [w for w in widths[group] if before < w < target])
                return
            if at[group] < len(stretches[group]):
                heapq.heappush(heap, (price(group), group))
        resources = walk.unmet()
        if resources and not met_one:
            raise walk.unreachable()


def _stretches(curve: Curve, widths: list[int]) -> list[tuple[int, float]]:
    """The curve's lower convex hull over the allowed widths, cut into short steps.

    Returns ``(removed after the step, nats per unit)``, slopes ascending.
    """
    hull: list[int] = []
    lost = curve.nats_lost
    for w in widths:
        while len(hull) >= 2 and (lost[hull[-1]] - lost[hull[-2]]) * (w - hull[-1]) >= (
            lost[w] - lost[hull[-1]]
        ) * (hull[-1] - hull[-2]):
            hull.pop()
        hull.append(w)
    longest = max(1, len(curve.order) // 128)
    steps: list[tuple[int, float]] = []
    for start, stop in itertools.pairwise(hull):
        slope = float(lost[stop] - lost[start]) / (stop - start)
        last = start
        for w in widths[widths.index(start) + 1 : widths.index(stop) + 1]:
            if w - last >= longest or w == stop:
                steps.append((w, slope))
                last = w
    return steps


def _give_back(walk: _Walk, group: int, choices: list[int]) -> None:
    """Takes back as much of the last step as the budget allows."""
    reached = walk.removed[group]
    for w in choices:
        walk.take(group, w)
        if not walk.unmet():
            return
    walk.take(group, reached)


def _equal(
    walk: _Walk,
    widths: Mapping[int, list[int]],
    n_units: Mapping[int, int],
    allocation: Allocation,
) -> None:
    """Bisects the one share that all groups have in common, then fills up what is left over."""

    def removed(group: int, share: float) -> int:
        allowed = widths[group]
        if allocation == "uniform":
            wanted = share * n_units[group]
            return max((w for w in allowed if w <= wanted + 1e-9), default=allowed[0])
        curve = walk.curves[group]
        lost: FloatArray = curve.nats_lost[allowed]
        return allowed[int(np.flatnonzero(lost <= share * max(curve.total, 1e-300) + 1e-12)[-1])]

    def go(share: float) -> bool:
        for group in widths:
            walk.take(group, removed(group, share))
        return not walk.unmet()

    if not go(1.0):
        raise walk.unreachable()
    low, high = 0.0, 1.0
    if go(low):
        return
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if go(middle) else (middle, high)
    go(high)
    for group in sorted(widths):
        # what ties or rounding removed beyond the budget comes back, one group after the other
        smaller = removed(group, low)
        _give_back(walk, group, [w for w in widths[group] if smaller <= w < walk.removed[group]])
