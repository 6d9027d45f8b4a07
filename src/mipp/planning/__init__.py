"""The whole way: trace, capture, score, select, and a plan that can be applied."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, overload

import numpy as np
from torch import nn

from mipp import graph, methods, processes, selection, statistics, surgery
from mipp.errors import InputError
from mipp.planning import presets
from mipp.planning.clock import Clock
from mipp.planning.competing import plan_by_method, plans_by_method
from mipp.planning.curve_points import NatsTrails
from mipp.planning.curves import Curves
from mipp.planning.information_kept import KeptInformation, information_kept, information_kept_by
from mipp.planning.keywords import read_budgets, read_progress
from mipp.planning.latency_budget import Speed, timed, within
from mipp.planning.model_outputs import answering, for_model
from mipp.planning.options import (
    Options,
    Progress,
    Wanted,
    read_options,
    to_dict,
    wanted_budget,
)
from mipp.planning.plan import Model, Plan, calibration, example, fit
from mipp.planning.plan_record import count_nats, made_record, masks
from mipp.planning.prunable import check_parts, check_patterns, check_widths, usable_graph
from mipp.planning.spending import part_way, select, spent
from mipp.planning.weighing import plan_weights
from mipp.planning.weight_options import (
    Granularity,
    WeightOptions,
    read_weight_options,
    weight_budget,
    weight_methods,
)
from mipp.planning.weight_plan import WeightPlan
from mipp.records import BoolArray, ChannelGraph, Curve
from mipp.tracing.guards import check_ordinary, gradients_enabled

__all__ = [
    "Granularity",
    "KeptInformation",
    "Options",
    "Plan",
    "WeightOptions",
    "WeightPlan",
    "calibration",
    "information_kept",
    "information_kept_by",
    "plan",
    "plans",
    "presets",
    "prune",
    "usable_graph",
    "wanted_budget",
    "weight_methods",
]


@overload
def plan(
    model: Model,
    batches: Iterable[Any],
    budget: "Wanted | None" = None,
    *,
    granularity: Literal["unit"] = "unit",
    progress: Progress | None = None,
    **options: Any,
) -> Plan[Model]: ...


@overload
def plan(
    model: Model,
    batches: Iterable[Any],
    budget: "str | selection.Budget | None" = None,
    *,
    granularity: Literal["weight", "2:4", "4:8"],
    progress: Progress | None = None,
    **options: Any,
) -> WeightPlan[Model]: ...


@processes.raises_on_all_ranks
@gradients_enabled()
def plan(
    model: Model,
    batches: Iterable[Any],
    budget: "Wanted | None" = None,
    *,
    granularity: str = "unit",
    progress: Progress | None = None,
    **options: Any,
) -> Plan[Model] | WeightPlan[Model]:
    """Decides which units of ``model`` go. Changes nothing; `Plan.apply` makes the small model.

    Parameters:
        model: any module that `torch.export` can trace. It is left exactly as it was. Inside of
            `torch.compile`, DataParallel or DistributedDataParallel the module that was wrapped is
            what is planned for: names, and the small model, are without the wrapper.
        batches: iterable of what the model takes: tensors, ``(input, target)`` pairs or dicts, all
            of one shape and dtype but for the number of examples. Targets only tell that the model
            is a classifier, unless ``loss=`` or ``method=`` uses them. Under
            ``torch.distributed`` each process gives its own; whatever goes wrong in one process is
            raised in all of them, with its rank.
        budget: ``"macs=50%"``, ``"params=300k"``, ``"units=20%"``, ``"latency=50%"`` or
            ``"latency=3ms"`` (of a forward pass here and now, see `mipp.Latency`),
            ``"information=99%"`` (keep that share of every consumer's information) or several with
            commas, all met. ``{"*.mlp*": "units=50%", "*attention*": "units=75%"}``: units of the
            groups that each pattern names, as ``protect`` does, apart from each other; the rest
            stays whole. Can be left out with ``stop=`` or ``widths=``, which then say how much
            goes. For single weights ``params=`` (those that are not zero) or ``information=``;
            none for ``"2:4"`` and ``"4:8"``.
        granularity: ``"unit"``; ``"weight"`` for single weights, wherever they lie; ``"2:4"`` or
            ``"4:8"`` for two (four) that stay of any four (eight) neighbouring inputs of an output.
            The last three give a `WeightPlan`, and a model of the same size with zeros.
        progress: called as ``progress(stage, done, total)``; stages are ``capture`` (batches),
            ``score`` (units) and ``train`` (steps).
        options: the fields of `mipp.Options`, ``noise`` and ``confidence``; for single weights
            those of `mipp.WeightOptions`.

    Raises:
        CalibrationError: no batches, changing shapes, or values that are not finite.
        GraphError: the model cannot be traced, or nothing in it can be pruned.
        BudgetError: the budget cannot be read or reached; says the smallest that can.
        SurgeryError: the model cannot be copied, or computes something else in every call.
        InputError: an option that is not known or does not fit.
    """
    if granularity != "unit":
        return _weights(model, batches, [budget], granularity, progress, options)[0]
    settings = read_options(**options)
    wanted = wanted_budget(budget, settings)
    report = read_progress(progress)
    clock = Clock()
    own, original, data = _opened(model, batches, settings)
    traced = usable_graph(original, data, **settings.wider)
    clock.lap("capture")
    check_patterns(traced, settings.protect)
    check_widths(traced, settings.widths, settings.protect, settings.min_units)
    check_parts(traced, wanted.parts)
    speed = timed(original, traced, data, [wanted], settings, clock)
    if isinstance(settings.method, methods.Method):
        made = plan_by_method(original, traced, data, wanted, settings, report, clock, speed)
        return for_model(made, own, settings.outputs)

    full = graph.cost(traced) if speed is None else speed.whole
    targets = wanted.limits(full)
    current: Model = original
    now = traced
    keep: dict[str, tuple[int, ...]] = {g.name: tuple(range(g.n_units)) for g in traced.groups}
    nats: dict[str, tuple[float, float]] = {}
    trails = NatsTrails()
    how = ""
    for number in range(1, settings.rounds + 1):
        # groups that are down to one unit are not in the graph any more, but still count
        left = {g.name for g in now.groups}
        gone = {n: len(u) for n, u in keep.items() if n not in left}
        step = part_way(wanted, targets, traced, full, number / settings.rounds, gone)
        curves = Curves(current, now, data, settings, report, clock)
        # nothing can be measured behind an empty layer: only the last round may leave one
        least = settings.min_units if number == settings.rounds else max(settings.min_units, 1)
        limited = replace(settings, min_units=least)
        chosen, curve_of = select(curves, now, step, limited, speed)
        how = how or curves.loss
        clock.lap("plan")
        if speed is not None and number == settings.rounds:
            chosen = within(
                speed, current, now, step, partial(_spent, curve_of, now, limited, speed)
            )
            clock.lap("timing")
        for group in now.groups:
            units = np.array(keep[group.name])
            keep[group.name] = tuple(units[chosen[group.index]].tolist())
            count_nats(nats, group.name, curve_of[group.index], chosen[group.index])
            trails.follow(group.name, curve_of[group.index], chosen[group.index])
        if not targets and all(len(units) == 1 for units in keep.values()):
            break  # a stop rule is through with all of them
        if number < settings.rounds:
            kept = surgery.kept_indices(traced, masks(traced, keep))
            current = surgery.slice_graph(original, traced, kept)
            if settings.refit is not None:
                fit(current, original, traced, kept, data, settings.refit, settings.seed)
            now = usable_graph(current, data, **settings.wider)
            clock.lap("capture")
    words = to_dict(settings, str(wanted)) | {"loss": how}
    record = made_record(original, traced, keep, nats, words, trails.trails(), speed, data)
    return Plan(record, own, traced, data, settings.refit, clock.seconds, settings.outputs)


@overload
def plans(
    model: Model,
    batches: Iterable[Any],
    budgets: "Iterable[Wanted]",
    *,
    granularity: Literal["unit"] = "unit",
    progress: Progress | None = None,
    **options: Any,
) -> list[Plan[Model]]: ...


@overload
def plans(
    model: Model,
    batches: Iterable[Any],
    budgets: "Iterable[str | selection.Budget]",
    *,
    granularity: Literal["weight"],
    progress: Progress | None = None,
    **options: Any,
) -> list[WeightPlan[Model]]: ...


@processes.raises_on_all_ranks
@gradients_enabled()
def plans(
    model: Model,
    batches: Iterable[Any],
    budgets: "Iterable[Wanted]",
    *,
    granularity: str = "unit",
    progress: Progress | None = None,
    **options: Any,
) -> list[Plan[Model]] | list[WeightPlan[Model]]:
    """One plan for each budget, from one measurement: the whole trade-off for the time of one.

    Takes what `plan` takes and raises what it raises.

    Raises:
        InputError: with ``passes`` or ``rounds`` above 1, or an information budget in ``ordered``
            elimination or with ``next_layer="pruned"``, whose measurements depend on the budget.
    """
    budgets = read_budgets(budgets)
    if granularity != "unit":
        return _weights(model, batches, budgets, granularity, progress, options)
    settings = read_options(**options)
    wanted = [wanted_budget(budget, settings) for budget in budgets]
    on_the_way = settings.order == "ordered" and any(b.information is not None for b in wanted)
    on_the_way |= settings.next_layer == "pruned" and settings.stop is None
    if settings.passes > 1 or settings.rounds > 1 or on_the_way:
        raise InputError(
            f"mipp.plans was given passes={settings.passes}, rounds={settings.rounds}, "
            f"order={settings.order!r} and next_layer={settings.next_layer!r} for "
            f"{', '.join(map(str, wanted))}; what is measured then depends on the budget. Call "
            "mipp.plan for each."
        )
    clock = Clock()
    own, original, data = _opened(model, batches, settings)
    traced = usable_graph(original, data, **settings.wider)
    clock.lap("capture")
    check_patterns(traced, settings.protect)
    for one in wanted:
        check_parts(traced, one.parts)
    speed = timed(original, traced, data, wanted, settings, clock)
    if isinstance(settings.method, methods.Method):
        by_method = plans_by_method(
            original, traced, data, wanted, settings, read_progress(progress), clock, speed
        )
        return [for_model(one, own, settings.outputs) for one in by_method]
    curves = Curves(original, traced, data, settings, read_progress(progress), clock)
    made = curves.make({}, None)
    found = []
    for budget in wanted:
        chosen = within(
            speed, original, traced, budget, partial(_spent, made, traced, settings, speed)
        )
        keep: dict[str, tuple[int, ...]] = {}
        nats: dict[str, tuple[float, float]] = {}
        trails = NatsTrails()
        for group in traced.groups:
            keep[group.name] = tuple(np.flatnonzero(chosen[group.index]).tolist())
            count_nats(nats, group.name, made[group.index], chosen[group.index])
            trails.follow(group.name, made[group.index], chosen[group.index])
        clock.lap("plan")
        words = to_dict(settings, str(budget)) | {"loss": curves.loss}
        clocked = speed if "latency" in budget.bounds else None
        record = made_record(original, traced, keep, nats, words, trails.trails(), clocked, data)
        seconds = dict(clock.seconds)
        found.append(Plan(record, own, traced, data, settings.refit, seconds, settings.outputs))
    return found


@gradients_enabled()
def prune(
    model: Model,
    batches: Iterable[Any],
    budget: "Wanted | None" = None,
    *,
    granularity: Granularity = "unit",
    **options: Any,
) -> Model:
    """`plan` and `Plan.apply` in one: a smaller, ordinary module. The model is left as it was.

    Takes what `plan` takes, and raises what the two raise.
    """
    # a mapping for single weights is refused by what reads the budget
    return plan(model, batches, budget, granularity=granularity, **options).apply()  # type: ignore[arg-type]


def _weights(
    model: Model,
    batches: Iterable[Any],
    budgets: "Sequence[Wanted | None]",
    granularity: str,
    progress: Progress | None,
    options: Mapping[str, Any],
) -> list[WeightPlan[Model]]:
    """Plans of single weights, one for each budget."""
    settings = read_weight_options(granularity, options)
    wanted = [weight_budget(budget, settings) for budget in budgets]
    clock = Clock()
    own, original, data = _opened(model, batches, settings)
    found = plan_weights(original, data, wanted, settings, read_progress(progress), clock)
    return [for_model(one, own, settings.outputs) for one in found]


def _opened(
    model: Model, batches: Iterable[Any], settings: Options | WeightOptions
) -> tuple[Model, Model, list[statistics.Batch]]:
    """The user's own module inside of wrappers, how it is seen (``outputs``), and the batches."""
    own: Model = graph.unwrap(model)  # type: ignore[assignment] # of the model, or inside
    check_ordinary(own)
    data = _read(own, batches, settings)
    return own, answering(own, settings.outputs, example(own, data)), data


def _spent(
    made: Mapping[int, Curve],
    traced: ChannelGraph,
    settings: Options,
    speed: Speed | None,
    budget: selection.Budget,
) -> dict[int, BoolArray]:
    return spent(made, traced, budget, settings, speed=speed)


def _read(
    model: nn.Module, batches: Iterable[Any], settings: Options | WeightOptions
) -> list[statistics.Batch]:
    """The batches, of a kind and for a model that all ranks have in common."""
    rounds = settings.rounds if isinstance(settings, Options) and settings.method == "mipp" else 1
    if rounds > 1 and settings.refit is not None and processes.rank_and_size()[1] > 1:
        raise InputError(
            f"rounds={rounds} refits the model between rounds, and a refit is not merged "
            "over processes, so that every rank would go on with another model. Use refit=None, "
            "or plan in one process."
        )
    return calibration(model, batches, settings.samples)
