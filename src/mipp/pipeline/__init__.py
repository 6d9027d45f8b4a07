"""The whole way: trace, capture, score, select, and a plan that can be applied."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from mipp import capture, graph, methods, selection, surgery
from mipp.errors import InputError
from mipp.pipeline.clock import Clock
from mipp.pipeline.curves import Curves
from mipp.pipeline.options import Options, Progress, read_options, spelled
from mipp.pipeline.plan import Model, Plan, fit, masks
from mipp.pipeline.usable import check_patterns, protected, usable_graph
from mipp.records import BoolArray, ChannelGraph, Cost, Curve, GroupSummary, Keep

__all__ = ["Options", "Plan", "plan", "prune", "usable_graph"]


def plan(
    model: Model,
    batches: Iterable[Any],
    budget: "str | selection.Budget | None" = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Plan[Model]:
    """Decides which units of ``model`` go. Changes nothing; `Plan.apply` makes the small model.

    Parameters:
        model: any module that `torch.export` can trace. It is left exactly as it was.
        batches: iterable of what the model takes: tensors, ``(input, target)`` pairs or dicts, all
            of one shape and dtype but for the number of examples. Targets only tell that the model
            is a classifier, unless ``loss=`` or ``method=`` uses them. Under
            ``torch.distributed`` each process gives its own.
        budget: ``"macs=50%"``, ``"params=300k"``, ``"units=20%"``, ``"information=99%"`` (keep that
            share of every consumer's information) or several with commas, all met. Can be left out
            with ``stop=``, which then says how much goes.
        progress: called as ``progress(stage, done, total)``; stages are ``capture`` (batches) and
            ``score`` (units).
        options: the fields of `mipp.Options`, ``noise`` and ``confidence``.

    Raises:
        CalibrationError: no batches, changing shapes, or values that are not finite.
        GraphError: the model cannot be traced, or nothing in it can be pruned.
        BudgetError: the budget cannot be read or reached; says the smallest that can.
        SurgeryError: the model cannot be copied, or computes something else in every call.
        InputError: an option that is not known or does not fit.
    """
    settings = read_options(**options)
    wanted = _wanted(budget, settings)
    report = progress or _silent
    clock = Clock()
    original: Model = graph.unwrap(model)  # type: ignore[assignment] # of the model, or inside
    data = capture.read_batches(batches, settings.samples)
    traced = usable_graph(original, data)
    clock.lap("capture")
    check_patterns(traced, settings.protect)

    full = graph.cost(traced)
    targets = wanted.limits(full)
    current: Model = original
    now = traced
    keep: dict[str, tuple[int, ...]] = {g.name: tuple(range(g.n_units)) for g in traced.groups}
    nats: dict[str, tuple[float, float]] = {}
    how = ""
    for number in range(1, settings.rounds + 1):
        # groups that are down to one unit are not in the graph any more, but still count
        gone = sum(len(u) for n, u in keep.items() if n not in {g.name for g in now.groups})
        step = _step(wanted, targets, full, number / settings.rounds, gone)
        curves = Curves(
            current, now, data, settings, report, clock,
            protected=frozenset(protected(now, settings.protect)),
        )  # fmt: skip
        chosen, curve_of = _select(curves, now, step, settings)
        how = how or curves.loss
        clock.lap("plan")
        for group in now.groups:
            units = np.array(keep[group.name])
            keep[group.name] = tuple(units[chosen[group.index]].tolist())
            _count_nats(nats, group.name, curve_of[group.index], chosen[group.index], settings)
        if number < settings.rounds:
            kept = surgery.kept_indices(traced, masks(traced, keep))
            current = surgery.slice_model(original, kept, traced.aliases)
            if settings.refit is not None:
                fit(current, original, traced, kept, data, settings.refit, settings.seed)
            now = usable_graph(current, data)
            clock.lap("capture")
    record = _record(original, traced, keep, nats, spelled(settings, str(wanted)) | {"loss": how})
    return Plan(record, original, traced, data, settings.refit, clock.seconds)


def prune(
    model: Model,
    batches: Iterable[Any],
    budget: "str | selection.Budget | None" = None,
    **options: Any,
) -> Model:
    """`plan` and `Plan.apply` in one: a smaller, ordinary module. The model is left as it was.

    Takes what `plan` takes, and raises what the two raise.
    """
    return plan(model, batches, budget, **options).apply()


def _select(
    curves: Curves, traced: ChannelGraph, budget: selection.Budget, settings: Options
) -> tuple[dict[int, BoolArray], dict[int, Curve]]:
    """One round: curves for all outputs, a first choice, then again for the outputs it keeps."""
    allocation = settings.allocation
    passes = settings.passes
    if settings.method != "mipp":
        allocation = allocation or methods.get(settings.method).allocation
        passes = 1
    n_units = {group.index: group.n_units for group in traced.groups}
    limits = selection.Limits(
        settings.min_units, settings.round_to, frozenset(protected(traced, settings.protect))
    )
    keep: Keep = {}
    for _ in range(passes):
        made = curves.make(keep, budget.information)
        costs = graph.CostModel(traced)
        keep = selection.spend(made, n_units, costs, budget, limits, allocation or "priced")
    return dict(keep), made


def _wanted(budget: "str | selection.Budget | None", settings: Options) -> selection.Budget:
    if budget is not None:
        wanted = selection.parse_budget(budget)
    elif settings.stop is not None:
        wanted = selection.Budget({})
    else:
        raise InputError(
            "Neither a budget nor a stop rule was given. Say how much may be left, such as "
            "budget='macs=50%', or when to stop, such as stop=mipp.Confidence(0.95)."
        )
    ends = settings.stop is not None or wanted.information is not None
    if settings.next_layer == "pruned" and not ends:
        raise InputError(
            "next_layer='pruned' needs a rule that decides each group on its own: stop=, or a "
            "budget of information=. For a budget of cost use passes=2."
        )
    return wanted


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Shows no progress."""


def _step(
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


def _count_nats(
    nats: dict[str, tuple[float, float]],
    name: str,
    curve: Curve,
    keep: BoolArray,
    settings: Options,
) -> None:
    """Adds one round's loss to the group's (nats before, nats lost so far)."""
    if settings.method != "mipp":
        nats[name] = (float("nan"), float("nan"))
        return
    before, lost = nats.get(name, (curve.total, 0.0))
    nats[name] = (before, lost + float(curve.nats_lost[int((~keep).sum())]))


def _record(
    model: nn.Module,
    traced: ChannelGraph,
    keep: Mapping[str, tuple[int, ...]],
    nats: Mapping[str, tuple[float, float]],
    options: Mapping[str, Any],
) -> surgery.PlanRecord:
    chosen = masks(traced, keep)
    whole, pruned = graph.CostModel(traced), graph.CostModel(traced, chosen)
    summary = []
    for group in traced.groups:
        before = whole.group_cost(group.index)
        after = pruned.group_cost(group.index)
        total, lost = nats[group.name]
        summary.append(
            GroupSummary(
                name=group.name,
                units_before=group.n_units,
                units_after=len(keep[group.name]),
                nats_before=total,
                nats_after=total - lost,
                macs_before=before.macs,
                macs_after=after.macs,
                params_before=before.params,
                params_after=after.params,
            )
        )
    return surgery.PlanRecord(
        keep=keep,
        axes=surgery.axis_keeps(traced, surgery.kept_indices(traced, chosen)),
        refused=traced.refused,
        summary=tuple(summary),
        before=whole.cost(),
        after=pruned.cost(),
        options=options,
        fingerprint=surgery.fingerprint(surgery.state_shapes(model)),
        mipp_version=surgery.installed_version(),
    )
