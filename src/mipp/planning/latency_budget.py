"""Budgets of latency: a table for the search, and the clock for the truth."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from mipp import graph, latency, selection, statistics, surgery
from mipp.errors import BudgetError
from mipp.planning.runtimes import Clock, Timed, ready_layer
from mipp.problem import Problem
from mipp.records import BoolArray, ChannelGraph, Cost, Keep, LatencyTable, LayerTable
from mipp.tracing.guards import measuring

SHARES = (0.75, 0.5, 0.25)
"""Shares of the units with which whole models are timed, beside the full one."""

Choice = dict[int, BoolArray]


@dataclass(eq=False)
class _Search:
    """Search for the bound by the table with which the real model just meets the target.

    Attributes:
        target: time that the real model may take (ms).
        most: time of the full model (ms).
        met: largest bound whose real model met the target.
        missed: smallest bound whose real model did not.
        best: slowest model that met the target.
        miss: fastest model that did not.
    """

    target: float
    most: float
    met: float | None = None
    missed: float | None = None
    best: tuple[Timed, Choice] | None = None
    miss: tuple[Timed, Choice] | None = None

    def add(self, bound: float, found: Timed, chosen: Choice) -> None:
        """Records the real time of the model chosen for a bound."""
        if found.ms <= self.target:
            self.met = bound if self.met is None else max(self.met, bound)
            if self.best is None or found.ms > self.best[0].ms:
                self.best = (found, chosen)
        else:
            self.missed = bound if self.missed is None else min(self.missed, bound)
            if self.miss is None or found.ms < self.miss[0].ms:
                self.miss = (found, chosen)

    def after(self, bound: float, found: Timed) -> float:
        """The next bound."""
        if self.met is not None and self.missed is not None:
            return (self.met + self.missed) / 2
        if self.met is not None:
            return min(bound * self.target / found.ms, self.most)
        # what takes time whatever the widths makes the model follow its table too slowly
        return bound * float(self.target / found.ms) ** 1.5


class Speed(Clock):
    """How fast a model is, on its device and as many threads as torch has.

    Every layer was timed on its own, in the runtime or in PyTorch. What lies between the layers
    is fitted to the times of the whole model at full and at three smaller widths: a constant, and a
    part in proportion to the number of outputs of the layers (norms, activations).

    Attributes:
        table: milliseconds of any choice of widths; at full widths the measured time.
        full: measured time of the whole model.
        settings: how it is measured.
    """

    def __init__(
        self,
        model: nn.Module,
        traced: ChannelGraph,
        data: Sequence[statistics.Batch],
        settings: latency.Latency,
    ) -> None:
        super().__init__(model, data[0], settings)
        self._graph = traced
        with measuring(model):
            layers, outputs = latency.time_layers(
                model,
                lambda: model(*self.example.args, **self.example.kwargs),
                lambda key: key in traced.axes,
                settings.stopwatch,
                self.device,
                shares=settings.shares,
                seconds=settings.layer_seconds,
                ready=lambda layer: ready_layer(layer, settings),
            )
            choices = [_part(traced, share) for share in SHARES]
            runs = self.runs([sliced(model, traced, choice) for choice in choices])
        medians = np.array([np.median(mine) for mine in runs])
        self.full = Timed(float(medians[0]), latency.scatter(runs[0]))
        features = np.array(
            [
                [1.0, _predicted(layers, traced, choice), _predicted(outputs, traced, choice)]
                for choice in ({}, *choices)
            ]
        )
        from scipy.optimize import nnls  # noqa: PLC0415 - only budgets of latency need it

        # errors count as shares of what was measured, as a budget does
        factors, _ = nnls(features / medians[:, None], np.ones(len(medians)))
        factors = factors * self.full.ms / float(features[0] @ factors)
        self.table = _sum(layers, outputs, factors)

    @property
    def whole(self) -> Cost:
        """Cost of the whole model, with its measured latency."""
        return graph.cost(self._graph, None, self.table)

    def predicted(self, keep: Keep) -> float:
        """Milliseconds by the table when only the units in ``keep`` stay."""
        return _predicted(self.table, self._graph, keep)

    def meet(
        self,
        budget: selection.Budget,
        target: float,
        ways: Sequence[Callable[[selection.Budget], Choice]],
        made: Callable[[Choice], nn.Module],
        lost: Callable[[Choice], float],
    ) -> tuple[int, Choice, Timed]:
        """The choice whose real model meets ``target`` (ms), which way it was made, and its time.

        The bound given to the table is raised or lowered until the real model meets the target, for
        each way to choose; the choice that loses the fewest nats is taken.

        Args:
            budget: with the bound on the latency.
            target: time that the real model may take (ms).
            ways: to make the choice for a budget, by the table.
            made: the small model of a choice.
            lost: nats that a choice loses.

        Raises:
            BudgetError: the target is not met, or is too near to the full time to be
                distinguished from it.
        """
        self._check_noise(target, self.full)
        met: list[tuple[float, int, Timed, Choice]] = []
        searches: list[_Search] = []
        first: BudgetError | None = None
        for number, choose in enumerate(ways):
            fewest = min((one[0] for one in met), default=math.inf)

            def worse(chosen: Choice, fewest: float = fewest) -> bool:
                return lost(chosen) >= fewest

            searches.append(_Search(target, self.full.ms))
            try:
                found = self._met(budget, searches[-1], choose, made, worse)
            except BudgetError as error:
                first = first or error
                continue
            if found is not None:
                met.append((lost(found[1]), number, *found))
        if first is not None and not met:
            missed = [(s.miss[0].ms, n) for n, s in enumerate(searches) if s.miss is not None]
            raise self._missed(searches[min(missed)[1]]) if missed else first
        _, number, timed, chosen = min(met, key=lambda one: one[0])
        self._check_noise(target, timed)
        return number, chosen, timed

    def _met(
        self,
        budget: selection.Budget,
        search: _Search,
        choose: Callable[[selection.Budget], Choice],
        made: Callable[[Choice], nn.Module],
        worse: Callable[[Choice], bool],
    ) -> tuple[Timed, Choice] | None:
        """The best choice of one way; None as soon as it is known to be ``worse`` than another's.

        Raises:
            BudgetError: the target is not met.
        """
        target = bound = search.target
        before: Choice | None = None
        for _ in range(self.settings.tries):
            asked = replace(budget, bounds={**budget.bounds, "latency": (bound, False)})
            try:
                chosen = choose(asked)
            except BudgetError:
                if before is None:
                    raise
                if search.missed is None:
                    break
                bound = (bound + search.missed) / 2  # the table knows none so small
                continue
            if before is not None and all(np.array_equal(before[g], chosen[g]) for g in chosen):
                break
            before, found = chosen, self.time(made(chosen))
            search.add(bound, found, chosen)
            if found.ms > target and worse(chosen):
                return None  # what is fast enough loses more
            if (1 - self.settings.slack) * target <= found.ms <= target:
                break
            bound = search.after(bound, found)
        best, miss = search.best, search.miss
        if best is None and miss is not None and miss[0].ms - miss[0].scatter <= target:
            best = miss  # over by less than the clock can distinguish
        if best is None:
            raise self._missed(search)
        return best

    def _check_noise(self, target: float, seen: Timed) -> None:
        saved = self.full.ms - target
        if 0 < saved < seen.scatter:
            which = "that" if seen is self.full else "the small one against it"
            raise BudgetError(
                f"A latency of {target:.4g} ms is {saved:.2g} ms less than the {self.full.ms:.4g} "
                f"ms of the whole model, and repeated measurements of {which} lie ±"
                f"{seen.scatter:.2g} ms apart: nobody could tell whether it is met. Ask for "
                "more, let the machine do nothing else, or measure for longer or with a larger "
                "batch: latency=mipp.Latency(model_seconds=..., batch=...)."
            )

    def _missed(self, search: "_Search") -> BudgetError:
        assert search.miss is not None
        found, target = search.miss[0], search.target
        return BudgetError(
            f"A latency of {target:.4g} ms was asked for, {100 * target / self.full.ms:.3g}% of "
            f"the whole model's {self.full.ms:.4g} ms. Of {self.settings.tries} plans at most, the "
            f"fastest model takes {found.ms:.4g} ± {found.scatter:.2g} ms. Ask for that, relax "
            "min_units, round_to or protect, or allow more tries: mipp.Latency(tries=...)."
        )


def timed(problem: Problem, budgets: Sequence[selection.Budget]) -> Speed | None:
    """The model's speed, measured if one of the budgets bounds the latency."""
    if not any("latency" in budget.bounds for budget in budgets):
        return None
    speed = Speed(problem.model, problem.graph, problem.batches, problem.options.latency)
    problem.clock.lap("timing")
    return speed


def sliced(model: nn.Module, traced: ChannelGraph, keep: Keep) -> nn.Module:
    """The model that only the units in ``keep`` are left in, not refitted."""
    shaped = surgery.with_placeholders(traced, keep)
    return surgery.slice_graph(model, traced, surgery.kept_indices(traced, shaped))


def _part(traced: ChannelGraph, share: float) -> Choice:
    """The first units of each group, a share of them, rounded up."""
    return {
        group.index: np.arange(group.n_units) < math.ceil(share * group.n_units)
        for group in traced.groups
    }


def _predicted(table: LatencyTable, traced: ChannelGraph, keep: Keep) -> float:
    latency = graph.cost(traced, keep, table).latency
    assert latency is not None
    return latency


def _sum(layers: LatencyTable, outputs: LatencyTable, factors: Any) -> LatencyTable:
    """``factors[0] + factors[1] * layers + factors[2] * outputs``."""
    fixed, by_layer, by_output = (float(factor) for factor in factors)
    return LatencyTable(
        fixed,
        tuple(
            LayerTable(t.name, t.axes, t.sizes, by_layer * t.values + by_output * o.values)
            for t, o in zip(layers.layers, outputs.layers, strict=True)
        ),
    )
