"""From what users write to the budget of a plan, or to several."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from mipp import selection
from mipp.checks import shown
from mipp.errors import BudgetError, InputError
from mipp.methods import WeightTarget
from mipp.options import Options, WeightOptions
from mipp.problem import WeightProblem

Wanted = str | Mapping[str, str | selection.Budget] | selection.Budget
"""A budget, as users write it."""

_MEASURING = ("estimator", "target", "order", "passes")
"""Settings of mipp's own measurement, which other methods do not make."""


def read_budgets(budgets: Any) -> list[Any]:
    """The budgets of `mipp.plans` as a list; raises `InputError` for one that is not in a list."""
    if isinstance(budgets, str | bytes | Mapping) or not isinstance(budgets, Iterable):
        raise InputError(
            f"budgets is {shown(budgets)}; expected a list of budgets, such as ['macs=50%', "
            "'macs=25%']. For a single one use mipp.plan."
        )
    return list(budgets)


def wanted_budget(budget: "Wanted | None", settings: Options) -> selection.Budget:
    """The budget as a record; empty where a stop rule decides alone.

    Raises:
        BudgetError: it cannot be read.
        InputError: neither is given, or options that need one.
    """
    if settings.widths is not None:
        if budget is not None or settings.stop is not None:
            raise InputError(
                "widths= was given with a budget or a stop rule; it says itself how many units "
                "stay. Give one of them."
            )
        wanted = selection.Budget({}, widths=settings.widths)
    elif budget is not None:
        wanted = selection.parse_budget(budget)
    elif settings.stop is not None:
        wanted = selection.Budget({})
    else:
        raise InputError(
            "Neither a budget nor a stop rule was given. Say how much may be left, such as "
            "budget='macs=50%', in what widths=, or when to stop, such as "
            "stop=mipp.Confidence(0.95)."
        )
    ends, method = settings.stop is not None or wanted.information is not None, settings.method
    if ends and not method.measures_information:
        raise InputError(
            f"method={method.name!r} measures no information, so that it has no use for "
            "stop= or a budget of information=. Give a budget of macs, params or units."
        )
    default = {one.name: one for one in fields(Options)}
    idle = [n for n in _MEASURING if getattr(settings, n) != _default(default[n])]
    if idle and not method.measures_information:
        raise InputError(
            f"method={method.name!r} has no use for {', '.join(idle)}: how mipp measures "
            "and eliminates. Leave them out (noise= is a setting of the estimator); a method's own "
            "settings are fields of its record in mipp.methods."
        )
    if settings.next_layer == "pruned" and not ends:
        raise InputError(
            "next_layer='pruned' needs a rule that decides each group on its own: stop=, or a "
            "budget of information=. For a budget of cost use passes=2."
        )
    return wanted


def _default(field: Any) -> Any:
    made = field.default_factory
    return made() if callable(made) else field.default


def weight_budget(budget: "Wanted | None", options: WeightOptions) -> selection.Budget | None:
    """The budget as a record; None where a pattern decides.

    Raises:
        BudgetError: it cannot be read.
        InputError: there is none, or one that single weights cannot meet.
    """
    granularity = options.granularity
    if options.pattern is not None:
        if budget is not None:
            raise InputError(
                f"granularity={granularity!r} was given the budget {budget}; the pattern itself "
                "says how many weights stay. Leave the budget out, or use granularity='weight'."
            )
        return None
    if budget is None:
        raise InputError(
            "No budget was given. Say how many parameters may be other than zero, such as "
            "budget='params=10%', or what share of its information every layer keeps, such as "
            "budget='information=99%'."
        )
    if isinstance(budget, Mapping):
        raise InputError(
            f"budget={dict(budget)!r} was given for single weights; expected one budget for the "
            "whole model, such as 'params=10%'. What protect= names stays."
        )
    wanted = selection.parse_budget(budget)
    others = sorted(set(wanted.bounds) - {"params"})
    if others or wanted.widths is not None:
        raise InputError(
            f"granularity='weight' was given a budget of {', '.join(others) or 'widths'}: zeros "
            "among the weights of a layer save no multiply-accumulates, time or units in dense "
            "kernels. Give params= or information=, or use granularity='unit'."
        )
    if wanted.information is not None and not options.method.measures_information:
        raise InputError(
            f"method={options.method.name!r} measures no information; give a budget of params."
        )
    return wanted


def weight_target(problem: WeightProblem, budget: selection.Budget | None) -> WeightTarget:
    """The number of weights, or share of information, that the budget leaves.

    Raises:
        BudgetError: it is below the number of parameters that cannot go.
    """
    if budget is None or "params" not in budget.bounds:
        return WeightTarget(None, None if budget is None else budget.information)
    others, before = problem.others, problem.n_live + problem.others
    value, is_share = budget.bounds["params"]
    bound = value * before if is_share else value
    if bound < others:
        raise BudgetError(
            f"The budget params <= {int(bound):,} cannot be reached: {others:,} parameters are "
            f"biases, norms or layers that stay ({others / before:.3g} of all "
            f"{before:,}). Ask for more than that, or protect fewer layers."
        )
    return WeightTarget(bound - others, budget.information)
