"""MIPP removes the units whose activations carry no information that the next layer needs.

The curves of nats lost against units removed come from an elimination in each group; a budget is
spent on them, or a stop rule ends them.

Source: Westphal, Hailes and Musolesi, "Mutual Information Preserving Neural Network Pruning", arXiv
2411.00147; the closed form is derived in docs/research/method.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipp import selection
from mipp.errors import CalibrationError
from mipp.methods.consumer_views import Views, ViewsOf
from mipp.methods.journal import digest_of, journal
from mipp.methods.method import Budgeted, Choice, Method, WeightChoice, WeightTarget
from mipp.options import Allocation, WeightAllocation
from mipp.problem import Problem, WeightProblem
from mipp.prunable import protected
from mipp.records import BoolArray, Curve, Group, Keep, Scorer
from mipp.selection.curve_points import NatsTrails
from mipp.statistics.few_rows import warn_without_information
from mipp.surgery import Refit


@dataclass(frozen=True, kw_only=True)
class Mipp(Method):
    """MIPP, the method of this package; its settings are the keywords of `mipp.plan`."""

    name = "mipp"
    summary = "mutual information with what the next layer gives"
    source = "Westphal et al. 2024, arXiv 2411.00147"
    needs = "data"
    at_init = True
    ranking = "global"
    update = Refit()
    measures_information = True
    slices_between_rounds = True
    weight_allocations = ("priced", "uniform", "rows")

    @property
    def allocation(self) -> Allocation:
        """Fewest nats per cost saved."""
        return "priced"

    @property
    def weight_allocation(self) -> WeightAllocation:
        """Fewest nats per weight, over all rows of all layers."""
        return "priced"

    @property
    def chooses_weights(self) -> bool:
        """Whether it can choose single weights: it also measures what each adds to a row."""
        return True

    def recorded(self) -> dict[str, Any]:
        """Nothing more than the options of the plan."""
        return {}

    def choose(self, problem: Problem, budgets: Sequence[Budgeted]) -> Iterator[Choice]:
        """The units that stay for each budget; what does not depend on it is measured once."""
        # one round for all budgets; of several each measures another model, and then forgets it
        shared = Curves(problem) if problem.options.rounds == 1 else None
        for budget in budgets:
            yield _in_rounds(problem, shared, budget)

    def choose_weights(
        self, problem: WeightProblem, targets: Sequence[WeightTarget]
    ) -> Iterator[WeightChoice]:
        """The single weights that stay for each target, from one measurement."""
        from mipp.methods.mipp_weights import informed

        return informed(problem, targets)


def _in_rounds(problem: Problem, shared: "Curves | None", budget: Budgeted) -> Choice:
    """Each round measures what the one before has left, sliced and refitted."""
    options, now = problem.options, problem
    keep: dict[str, tuple[int, ...]] = {
        group.name: tuple(range(group.n_units)) for group in problem.graph.groups
    }
    nats: dict[str, tuple[float, float]] = {}
    trails, loss = NatsTrails(), ""
    for number in range(1, options.rounds + 1):
        # groups that are down to one unit are not in the graph any more, but still count
        left = {group.name for group in now.graph.groups}
        gone = {name: len(units) for name, units in keep.items() if name not in left}
        share, final = number / options.rounds, number == options.rounds
        curves = shared or Curves(now)
        chosen, made = _select(curves, now, budget, share, gone, final=final)
        loss = loss or curves.loss
        for group in now.graph.groups:
            stays, curve = chosen[group.index], made[group.index]
            keep[group.name] = tuple(np.array(keep[group.name])[stays].tolist())
            told = curves.told(group, curve)
            before, lost = nats.get(group.name, (told.total, 0.0))
            nats[group.name] = (before, lost + float(told.nats_lost[int((~stays).sum())]))
            trails.follow(group.name, told, stays)
        if not budget.has_bounds and all(len(units) == 1 for units in keep.values()):
            break  # a stop rule is through with all of them
        now.clock.lap("plan")
        if not final:
            now = problem.pruned(keep)
    return Choice(keep, nats, trails.trails(), {"loss": loss})


def _select(
    curves: "Curves",
    now: Problem,
    budget: Budgeted,
    share: float,
    gone: Mapping[str, int],
    *,
    final: bool,
) -> tuple[dict[int, BoolArray], dict[int, Curve]]:
    """Curves for all outputs and a first choice, then again for the outputs that it keeps."""
    keep: dict[int, BoolArray] = {}
    passes = now.options.passes
    for number in range(1, passes + 1):
        made = curves.make(keep, budget.information(share))
        now.clock.lap("plan")
        last = final and number == passes
        keep = budget.on_curves(made, now, share, gone, final=last)
    return keep, made


def check_finite(name: str, *nats: float) -> None:
    """Raise `CalibrationError` for information that is NaN or infinite."""
    if not np.isfinite(nats).all():
        raise CalibrationError(
            f"The information that {name} transfers is not a finite number (it starts at "
            f"{nats[0]} nats); expected finite nats. Check the model's weights and its activations "
            "on the batches for extreme values, give the model in float64, use noise=0.1, or name "
            "the layer in protect=."
        )


class Curves:
    """Makes the curves of a model; those for all outputs are kept."""

    def __init__(self, problem: Problem) -> None:
        self.graph, self.options, self._problem = problem.graph, problem.options, problem
        self._views = Views(problem)
        self._whole: dict[float | None, dict[int, Curve]] = {}
        self._journal = journal(problem)

    @property
    def loss(self) -> str:
        """After the first call of `make`, in words which loss was used."""
        return self._views.loss

    def told(self, group: Group, curve: Curve) -> Curve:
        """The curve in nats of the loss on other examples, see `mipp.statistics.LossPerNat`."""
        factors = self._views.factors(group)
        lost, total = curve.consumer_lost * factors, curve.consumer_total * factors
        return Curve(curve.order, lost.sum(1), float(total.sum()), lost, total)

    def make(self, keep: Keep, share: float | None) -> dict[int, Curve]:
        """The curves of all groups, see `_measured`."""
        # a greedy elimination is the same for every share of information to be kept
        depends = self.options.order == "ordered" or self.options.next_layer == "pruned"
        share = share if depends else None
        if keep:
            return self._measured(keep, share)
        if share not in self._whole:
            self._whole[share] = self._measured(keep, share)
        return self._whole[share]

    def _measured(self, keep: Keep, share: float | None) -> dict[int, Curve]:
        """Curves of all groups; only the outputs in ``keep`` count as what the consumers give.

        With a stop rule, or a ``share`` of the information to keep and ``order="ordered"``, each
        unit is tested on the way, and the curve ends with the last that goes. With
        ``next_layer="pruned"`` each group is judged by what the rule keeps of those before it (of
        which a budget of cost may then keep more).
        """
        curves: dict[int, Curve] = {}
        units = sum(group.n_units for group in self.graph.groups)
        spared = protected(self.graph, self.options.protect)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._problem.progress("score", done, units)

        kept = dict(keep)
        pruned = self.options.next_layer == "pruned"

        def score(group: Group, views_of: ViewsOf) -> None:
            with (
                self._views.enough_memory("eliminating units read by", group.consumers),
                self._scorer(group, views_of, kept, share) as scorer,
            ):
                if group.index in spared:
                    curves[group.index] = selection.untouched(scorer)
                    check_finite(group.name, curves[group.index].total)
                    advance(group.n_units)
                    return
                curve = curves[group.index] = self._curve(scorer, share, advance)
                check_finite(group.name, curve.total, *curve.nats_lost)
            if pruned:
                stays = np.ones(group.n_units, dtype=bool)
                stays[curve.order[: self._goes(group, curve, share)]] = False
                kept[group.index] = stays

        self._views.each(score, any_order=not pruned)
        warn_without_information(curves.values())
        return {group.index: curves[group.index] for group in self.graph.groups}

    @contextmanager
    def _scorer(
        self, group: Group, views_of: ViewsOf, kept: Keep, share: float | None
    ) -> Iterator[Scorer]:
        """A fresh scorer of the group, or one that continues where an earlier process stopped."""

        def make() -> Scorer:
            views = views_of(group, kept)
            return self.options.estimator.scorer(views, group.n_units, self.options.seed)

        if self._journal is None:
            yield make()
            return
        key = {"name": group.name, "share": share, "kept": digest_of(kept)}
        with self._journal.scorer(key, group.n_units, make) as scorer:
            yield scorer

    def _goes(self, group: Group, curve: Curve, share: float | None) -> int:
        """How many units of the group the rule removes."""
        limits = selection.Limits(self.options.min_units, self.options.round_to)
        most = len(curve.order) if share is None else selection.removable(curve, share)
        return max(w for w in limits.widths(group.index, group.n_units) if w <= most)

    def _curve(self, scorer: Scorer, share: float | None, advance: Callable[[int], None]) -> Curve:
        order, stop = self.options.order, self.options.stop
        if stop is None and share is not None and order == "ordered":
            stop = selection.Share(share)
        if stop is None:
            return selection.eliminate(scorer, order, advance)
        return selection.eliminate_until(scorer, stop, order, advance)
