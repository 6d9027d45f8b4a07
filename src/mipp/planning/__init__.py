"""The whole of planning: read the options, trace, let the method choose, and make plans."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, Unpack, overload

from torch import nn

from mipp import graph, processes, selection, tuning
from mipp.errors import InputError
from mipp.options import (
    BlockKeywords,
    BlockOptions,
    Granularity,
    Options,
    Progress,
    UnitKeywords,
    WeightKeywords,
    WeightOptions,
)
from mipp.planning.any_plan import Model
from mipp.planning.block_options import block_budget
from mipp.planning.block_plan import BlockPlan, block_plans
from mipp.planning.budget_values import (
    Wanted,
    read_budgets,
    wanted_budget,
    weight_budget,
    weight_target,
)
from mipp.planning.granularity import read_options
from mipp.planning.kept_information import KeptInformation, information_kept
from mipp.planning.latency_budget import timed
from mipp.planning.model_outputs import answering
from mipp.planning.plan_record import plan_record, to_dict, weight_record, weights_to_dict
from mipp.planning.spending import Spending
from mipp.planning.tuned import tune
from mipp.planning.unit_plan import Plan
from mipp.planning.weight_plan import WeightPlan
from mipp.problem import Clock, Problem, WeightProblem, calibration
from mipp.progress import following
from mipp.prunable import check_parts, check_patterns, check_widths, example, prunable_graph
from mipp.statistics import Batch
from mipp.tracing.guards import check_ordinary, gradients_enabled

__all__ = [
    "BlockOptions",
    "BlockPlan",
    "Granularity",
    "KeptInformation",
    "Options",
    "Plan",
    "WeightOptions",
    "WeightPlan",
    "calibration",
    "information_kept",
    "plan",
    "plans",
    "prunable_graph",
    "prune",
    "tune",
    "wanted_budget",
]


@overload
def plan(
    model: Model,
    batches: Iterable[Any],
    budget: Wanted | None = None,
    *,
    granularity: Literal["unit"] = "unit",
    progress: Progress | bool | None = None,
    **options: Unpack[UnitKeywords],
) -> Plan[Model]: ...


@overload
def plan(
    model: Model,
    batches: Iterable[Any],
    budget: str | selection.Budget | None = None,
    *,
    granularity: Literal["weight", "2:4", "4:8"],
    progress: Progress | bool | None = None,
    **options: Unpack[WeightKeywords],
) -> WeightPlan[Model]: ...


@overload
def plan(
    model: Model,
    batches: Iterable[Any],
    budget: str | selection.Budget,
    *,
    granularity: Literal["block"],
    progress: Progress | bool | None = None,
    **options: Unpack[BlockKeywords],
) -> BlockPlan[Model]: ...


@processes.raises_on_all_ranks
@gradients_enabled()
def plan(
    model: Model,
    batches: Iterable[Any],
    budget: Wanted | None = None,
    *,
    granularity: str = "unit",
    progress: Progress | bool | None = None,
    **options: Any,
) -> Plan[Model] | WeightPlan[Model] | BlockPlan[Model]:
    """Decides which units of ``model`` go. Changes nothing; `Plan.apply` makes the small model.

    Args:
        model: any module that `torch.export` can trace. It is left exactly as it was. Inside of
            `torch.compile`, DataParallel or DistributedDataParallel the module that was wrapped is
            what is planned for: names, and the small model, are without the wrapper.
        batches: iterable of what the model takes: tensors, ``(input, target)`` pairs or dicts, all
            of one shape and dtype but for the number of examples. Targets only show that the model
            is a classifier, unless ``loss=`` or ``method=`` uses them. Under
            ``torch.distributed`` each process gives its own; whatever goes wrong in one process is
            raised in all of them, with its rank.
        budget: ``"macs=50%"``, ``"params=300k"``, ``"units=20%"``, ``"latency=50%"`` or
            ``"latency=3ms"`` (of a forward pass here and now, see `mipp.Latency`),
            ``"information=99%"`` (keep that share of every consumer's information) or several with
            commas, all met. ``{"*.mlp*": "units=50%", "*attention*": "units=75%"}``: units of the
            groups that each pattern names, as ``protect`` does, apart from each other; the rest
            stays whole. Can be left out with ``stop=`` or ``widths=``, which then say how much
            goes. For blocks ``macs=``, ``params=``, ``latency=`` or ``units=`` (blocks). For
            single weights ``params=`` (those that are not zero) or ``information=``; none for
            ``"2:4"`` and ``"4:8"``.
        granularity: ``"unit"``; ``"block"`` for whole residual blocks and layers of transformers,
            which gives a `BlockPlan`; ``"weight"`` for single weights, wherever they lie; ``"2:4"``
            or ``"4:8"`` for two (four) that stay of any four (eight) neighbouring inputs of an
            output. The last three give a `WeightPlan`, and a model of the same size with zeros.
        progress: None shows bars on terminals and in notebooks, and elsewhere logs one line a stage
            (level INFO of the logger ``mipp``). True shows bars, or lines on stderr where there
            can be none; False only logs. A function is called as ``progress(stage, done, total)``;
            stages are ``capture`` (batches), ``score`` (units) and ``train`` (steps).
        options: the fields of `mipp.Options`, ``noise`` and ``confidence``; for blocks those of
            `mipp.BlockOptions`, for single weights those of `mipp.WeightOptions`.

    Raises:
        CalibrationError: no batches, changing shapes, or values that are not finite.
        GraphError: the model cannot be traced, or nothing in it can be pruned.
        BudgetError: the budget cannot be read or reached; says the smallest that can.
        SurgeryError: the model cannot be copied, or computes something else in every call.
        InputError: an option that is not known or does not fit.

    Examples:
        >>> import torch
        >>> import mipp
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> batches = [torch.randn(64, 4)]
        >>> plan = mipp.plan(net, batches, "units=50%")
        >>> plan.after.units
        4
        >>> plan.apply()[0]
        Linear(in_features=4, out_features=4, bias=True)
    """
    return _plans(model, batches, [budget], granularity, progress, options)[0]


@overload
def plans(
    model: Model,
    batches: Iterable[Any],
    budgets: Iterable[Wanted],
    *,
    granularity: Literal["unit"] = "unit",
    progress: Progress | bool | None = None,
    **options: Unpack[UnitKeywords],
) -> list[Plan[Model]]: ...


@overload
def plans(
    model: Model,
    batches: Iterable[Any],
    budgets: Iterable[str | selection.Budget],
    *,
    granularity: Literal["weight"],
    progress: Progress | bool | None = None,
    **options: Unpack[WeightKeywords],
) -> list[WeightPlan[Model]]: ...


@overload
def plans(
    model: Model,
    batches: Iterable[Any],
    budgets: Iterable[str | selection.Budget],
    *,
    granularity: Literal["block"],
    progress: Progress | bool | None = None,
    **options: Unpack[BlockKeywords],
) -> list[BlockPlan[Model]]: ...


@processes.raises_on_all_ranks
@gradients_enabled()
def plans(
    model: Model,
    batches: Iterable[Any],
    budgets: Iterable[Wanted],
    *,
    granularity: str = "unit",
    progress: Progress | bool | None = None,
    **options: Any,
) -> list[Plan[Model]] | list[WeightPlan[Model]] | list[BlockPlan[Model]]:
    """One plan for each budget, from one measurement: the whole trade-off for the time of one.

    Takes what `plan` takes and raises what it raises.

    Raises:
        InputError: several budgets with ``passes`` or ``rounds`` above 1, or an information budget
            in ``ordered`` elimination or with ``next_layer="pruned"``, whose measurements depend on
            the budget.

    Examples:
        >>> import torch
        >>> import mipp
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> batches = [torch.randn(64, 4)]
        >>> [plan.after.units for plan in mipp.plans(net, batches, ["units=50%", "units=25%"])]
        [4, 2]
    """
    wanted = read_budgets(budgets)
    return _plans(model, batches, wanted, granularity, progress, options)


@gradients_enabled()
def prune(
    model: Model,
    batches: Iterable[Any],
    budget: Wanted | None = None,
    *,
    granularity: Granularity = "unit",
    tune: "tuning.Tune | bool" = False,
    progress: Progress | bool | None = None,
    **options: Any,
) -> Model:
    """`plan` and `Plan.apply` in one: a smaller, ordinary module. The model is left as it was.

    Takes what `plan` takes, and ``tune`` as `Plan.apply` does; raises what the two raise.

    Examples:
        >>> import torch
        >>> import mipp
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> batches = [torch.randn(64, 4)]
        >>> mipp.prune(net, batches, "units=25%")[0]
        Linear(in_features=4, out_features=2, bias=True)
    """
    # a mapping for single weights is refused by what reads the budget
    made = plan(
        model, batches, budget, granularity=granularity, progress=progress, **options  # type: ignore[arg-type]
    )  # fmt: skip
    return made.apply(tune=tune, progress=progress)


def _plans(
    model: Model,
    batches: Iterable[Any],
    budgets: Sequence[Wanted | None],
    granularity: str,
    progress: Progress | bool | None,
    keywords: dict[str, Any],
) -> list[Any]:
    """The plans, one for each budget."""
    options = read_options(granularity, keywords)
    with following(progress) as report:
        return _followed_plans(model, batches, budgets, options, report)


def _followed_plans(
    model: Model,
    batches: Iterable[Any],
    budgets: Sequence[Wanted | None],
    options: Options | WeightOptions | BlockOptions,
    report: Progress,
) -> list[Any]:
    """The plans, one for each budget, made while ``report`` is called."""
    clock = Clock()
    own: Model = graph.unwrap(model)  # type: ignore[assignment] # of the model, or inside
    if isinstance(options, BlockOptions):
        bounds = [block_budget(budget) for budget in budgets]
        data, _ = _opened(own, batches, options)
        return list(block_plans(own, data, options, bounds, report, clock))
    if isinstance(options, WeightOptions):
        targets = [weight_budget(budget, options) for budget in budgets]
        data, seen = _opened(own, batches, options)
        weight_problem = WeightProblem.of(seen, data, options, report, clock)
        return list(_weight_plans(own, weight_problem, targets))
    wanted = [wanted_budget(budget, options) for budget in budgets]
    _check_several(wanted, options)
    data, seen = _opened(own, batches, options)
    problem = Problem.of(seen, data, options, report, clock)
    check_patterns(problem.graph, options.protect)
    check_widths(problem.graph, options.widths, options.protect, options.min_units)
    for budget in wanted:
        check_parts(problem.graph, budget.parts)
    return list(_unit_plans(own, problem, wanted))


def _opened(
    own: nn.Module, batches: Iterable[Any], options: Options | WeightOptions | BlockOptions
) -> tuple[list[Batch], nn.Module]:
    """The batches, and the model as it is measured: it returns what ``outputs=`` picks."""
    check_ordinary(own)
    data = calibration(own, batches, options.samples)
    return data, answering(own, options.outputs, example(own, data))


def _unit_plans(
    own: Model, problem: Problem, budgets: Sequence[selection.Budget]
) -> Iterator[Plan[Model]]:
    """A plan for each budget, by the choice of the method."""
    options, speed = problem.options, timed(problem, budgets)
    spendings = [Spending(problem, budget, speed) for budget in budgets]
    choices = options.method.choose(problem, spendings)
    for spending, choice in zip(spendings, choices, strict=True):
        latency = None
        if speed is not None and spending.checked is not None:
            how = speed.describe(spending.checked) | spending.widths_by
            latency = speed.full, spending.checked, how
        words = to_dict(options, str(spending.budget))
        seen = problem.model if choice.model is None else choice.model
        record = plan_record(seen, problem.graph, choice, words, problem.batches, latency)
        problem.clock.lap("plan")
        mine = own
        if choice.model is not None:  # which the method has trained
            if options.outputs is not None:  # in the class of `answering`
                choice.model.__class__ = type(own)
            mine = choice.model  # type: ignore[assignment] # a copy, of the same class
        yield Plan(
            record=record,
            model=mine,
            traced=problem.graph,
            batches=problem.batches,
            refit=options.refit,
            seconds=dict(problem.clock.seconds),
            outputs=options.outputs,
            noted=problem.noted if choice.model is None else None,
        )


def _weight_plans(
    own: Model, problem: WeightProblem, budgets: Sequence[selection.Budget | None]
) -> Iterator[WeightPlan[Model]]:
    """A plan for each budget, by the choice of the method."""
    options = problem.options
    targets = [weight_target(problem, budget) for budget in budgets]
    choices = options.method.choose_weights(problem, targets)
    for budget, choice in zip(budgets, choices, strict=True):
        record = weight_record(problem, choice, weights_to_dict(options, budget))
        problem.clock.lap("plan")
        yield WeightPlan(
            record=record,
            model=own,
            batches=problem.batches,
            refit=options.refit,
            own=choice.own,
            seconds=dict(problem.clock.seconds),
            outputs=options.outputs,
        )


def _check_several(budgets: Sequence[selection.Budget], options: Options) -> None:
    """Raises `InputError` for several budgets where what is measured depends on the budget."""
    on_the_way = options.order == "ordered" and any(b.information is not None for b in budgets)
    on_the_way |= options.next_layer == "pruned" and options.stop is None
    if len(budgets) > 1 and (options.passes > 1 or options.rounds > 1 or on_the_way):
        raise InputError(
            f"mipp.plans was given passes={options.passes}, rounds={options.rounds}, "
            f"order={options.order!r} and next_layer={options.next_layer!r} for "
            f"{', '.join(map(str, budgets))}; what is measured then depends on the budget. Call "
            "mipp.plan for each."
        )
