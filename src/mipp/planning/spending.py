"""A budget, spent on curves or scores: the units that stay, in one step or several."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mipp import graph, selection
from mipp.errors import BudgetError, InputError
from mipp.methods import Scores, curves_of_scores
from mipp.options import Allocation, Options
from mipp.planning.latency_budget import Speed, sliced
from mipp.planning.runtimes import Timed
from mipp.problem import Problem, whole_masks
from mipp.prunable import protected
from mipp.records import BoolArray, ChannelGraph, Curve, Keep

BLOCK = 8
"""Kernels work in blocks of so many channels."""

Way = Callable[[selection.Budget], dict[int, BoolArray]]
"""How a budget is spent: the units that stay, by group."""


class Spending:
    """One budget for a problem, see `mipp.methods.Budgeted`.

    Attributes:
        budget: as it was requested.
        speed: of the whole model, where the budget bounds the latency.
        checked: latency of the chosen model, where the budget bounds it.
        widths_by: allocation and multiple of its widths, as plain values.
    """

    def __init__(self, problem: Problem, budget: selection.Budget, speed: Speed | None) -> None:
        self.budget, self._problem = budget, problem
        self.speed = speed if "latency" in budget.bounds else None
        self.checked: Timed | None = None
        self.widths_by: dict[str, str | int] = {}
        self._full = graph.cost(problem.graph) if self.speed is None else self.speed.whole
        self._targets = budget.limits(self._full)

    @property
    def has_bounds(self) -> bool:
        """Whether anything but a stop rule or a share of information bounds what stays."""
        return bool(self._targets)

    def information(self, share: float) -> float | None:
        """The share of its information that every consumer keeps, ``share`` of the way."""
        return None if self.budget.information is None else self.budget.information**share

    def check(self) -> None:
        """Raises `BudgetError` where the budget cannot be met, whatever the scores."""
        nothing = {g.index: np.zeros(g.n_units) for g in self._problem.graph.groups}
        self._by_table(nothing, {}, self._part_way(1.0, {}))

    def on_scores(self, scores: Scores, keep: Keep, share: float) -> Keep:
        """The units in ``keep`` that stay after ``share`` of the way to the budget."""
        budget = self._part_way(share, {})
        if share < 1:
            return self._by_table(scores, keep, budget)
        return self._met(
            self._problem,
            budget,
            [(self._problem.options, lambda asked: dict(self._by_table(scores, keep, asked)))],
        )

    def on_curves(
        self,
        curves: Mapping[int, Curve],
        problem: Problem,
        share: float,
        gone: Mapping[str, int],
        *,
        final: bool,
    ) -> dict[int, BoolArray]:
        """The units of the problem that stay, see `mipp.methods.Budgeted`."""
        budget, options = self._part_way(share, gone), problem.options
        if share < 1:
            # nothing can be measured behind an empty layer: only the last round may leave one
            options = replace(options, min_units=max(options.min_units, 1))

        def way(options: Options) -> Way:
            return lambda asked: _spent(curves, problem.graph, asked, options, speed=self.speed)

        def lost(chosen: Keep) -> float:
            return sum(float(c.nats_lost[int((~chosen[g]).sum())]) for g, c in curves.items())

        if not final:
            return way(options)(budget)
        return self._met(problem, budget, [(one, way(one)) for one in _ways(options)], lost)

    def _by_table(self, scores: Scores, keep: Keep, budget: selection.Budget) -> Keep:
        problem, made = self._problem, curves_of_scores(scores, keep)
        chosen = _spent(made, problem.graph, budget, problem.options, keep, self.speed)
        return whole_masks(problem.graph) | chosen

    def _met(
        self,
        problem: Problem,
        budget: selection.Budget,
        ways: Sequence[tuple[Options, Way]],
        lost: Callable[[Keep], float] = lambda _: 0.0,
    ) -> dict[int, BoolArray]:
        """The choice for the budget; the real model is timed where it bounds the latency."""
        if self.speed is None:
            return ways[0][1](budget)
        target = budget.limits(self.speed.whole)["latency"]
        number, chosen, self.checked = self.speed.meet(
            budget,
            target,
            [way for _, way in ways],
            lambda keep: sliced(problem.model, problem.graph, keep),
            lost,
        )
        spent = ways[number][0]
        allocation = spent.allocation or spent.method.allocation
        self.widths_by = {"allocation": allocation, "round_to": spent.round_to}
        problem.clock.lap("timing")
        return chosen

    def _part_way(self, share: float, gone: Mapping[str, int]) -> selection.Budget:
        """The budget after a share of the rounds, the same factor in each.

        Args:
            share: of the rounds that are done.
            gone: units left of each group that is not in the graph of this round any more, by name.
        """
        wanted, bounds = self.budget, {}
        for name, target in self._targets.items():
            whole = getattr(self._full, name)
            bound = whole * (target / whole) ** share
            bounds[name] = (bound - sum(gone.values()) if name == "units" else bound, False)
        widths = wanted.widths
        if widths is not None and share < 1:
            sizes = {g.name: g.n_units for g in self._problem.graph.groups}
            # nothing can be measured behind an empty layer: only the last round may leave one
            widths = {
                n: max(1, math.ceil(sizes[n] * (w / sizes[n]) ** share - 1e-9))
                for n, w in widths.items()
            }
        parts = wanted.parts
        if parts is not None:
            parts = {
                p: _part_of(part, p, self._problem.graph, share, gone) for p, part in parts.items()
            }
        information = self.information(share)
        return replace(wanted, bounds=bounds, information=information, widths=widths, parts=parts)


def _ways(options: Options) -> list[Options]:
    """How a budget of latency may be spent: what the caller left open is tried both ways.

    Prices are by a table that is too coarse for single channels, so that widths which are wider
    than they need to be can lose fewer nats in the same time.
    """
    both: list[Allocation | None] = [None, "uniform"]
    allocations = both if options.allocation is None else [options.allocation]
    multiples = [options.round_to] if options.round_to > 1 else [1, BLOCK]
    return [
        replace(options, allocation=allocation, round_to=multiple)
        for allocation in allocations
        for multiple in multiples
    ]


def _spent(
    curves: Mapping[int, Curve],
    traced: ChannelGraph,
    budget: selection.Budget,
    options: Options,
    keep: Keep | None = None,
    speed: Speed | None = None,
) -> dict[int, BoolArray]:
    """The units that stay when the budget is spent on these curves, by group index.

    Args:
        curves: by group index.
        traced: the groups.
        budget: to spend.
        options: of the plan.
        keep: units that are left now; the others come first in the curves.
        speed: its table predicts the latency, where the budget bounds it.
    """
    if budget.widths is not None:
        return _in_widths(curves, traced, budget.widths)
    if budget.parts is not None:
        return _in_parts(curves, traced, budget.parts, options, keep)
    n_units = {group.index: group.n_units for group in traced.groups}
    costs = graph.CostModel(traced, keep, None if speed is None else speed.table)
    gone = {group: int((~units).sum()) for group, units in (keep or {}).items()}
    return _chosen(curves, n_units, costs, budget, traced, options, gone)


def _chosen(
    curves: Mapping[int, Curve],
    n_units: Mapping[int, int],
    costs: selection.CostModel,
    budget: selection.Budget,
    traced: ChannelGraph,
    options: Options,
    gone: Mapping[int, int],
) -> dict[int, BoolArray]:
    """The units that stay, see `mipp.selection.spend`."""
    limits, own = _limits(traced, options), options.method.allocation
    if options.allocation == "kinds":
        names = {group.index: group.name for group in traced.groups}
        return selection.spend_by_kinds(curves, n_units, costs, budget, names, limits, own, gone)
    allocation = options.allocation or own
    return selection.spend(curves, n_units, costs, budget, limits, allocation, gone)


def _limits(traced: ChannelGraph, options: Options) -> selection.Limits:
    spared = frozenset(protected(traced, options.protect))
    return selection.Limits(options.min_units, options.round_to, spared)


def _in_parts(
    curves: Mapping[int, Curve],
    traced: ChannelGraph,
    parts: Mapping[str, selection.Budget],
    options: Options,
    keep: Keep | None,
) -> dict[int, BoolArray]:
    """Each pattern's groups by their own budget; units cost the same, whatever else is removed."""
    found = whole_masks(traced) | dict(keep or {})
    for pattern, part in parts.items():
        mine = protected(traced, [pattern])
        n_units = {g.index: g.n_units for g in traced.groups if g.index in mine}
        if not n_units:
            continue  # its groups were down to one unit in an earlier round
        (bound, is_share) = part.bounds["units"]
        bound = bound * sum(n_units.values()) if is_share else bound
        others = sum(int(units.sum()) for index, units in found.items() if index not in mine)
        try:
            found |= _chosen(
                {index: curve for index, curve in curves.items() if index in mine},
                n_units,
                graph.CostModel(traced, found),
                selection.Budget({"units": (others + bound, False)}),
                traced,
                options,
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
    keep = whole_masks(traced)
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
