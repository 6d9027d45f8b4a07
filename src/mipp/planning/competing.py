"""Plans by other methods than MIPP: one traced graph, scores in rounds, the same budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from mipp import graph, methods, selection, statistics
from mipp.errors import InputError
from mipp.planning.clock import Clock
from mipp.planning.curve_points import ScoreTrails
from mipp.planning.latency_budget import Speed, within
from mipp.planning.options import Options, Progress, to_dict
from mipp.planning.plan import Model, Plan
from mipp.planning.plan_record import made_record
from mipp.planning.spending import part_way, spent
from mipp.records import ChannelGraph, Keep, Trail


def plan_by_method(
    model: Model,
    traced: ChannelGraph,
    data: Sequence[statistics.Batch],
    wanted: selection.Budget,
    settings: Options,
    report: Progress,
    clock: Clock,
    speed: Speed | None = None,
) -> Plan[Model]:
    """The plan of ``settings.method``, for the model or for what the method trained it to."""
    method, question = settings.method, _question(model, traced, data, settings)
    full = graph.cost(traced) if speed is None else speed.whole
    targets = wanted.limits(full)
    whole = {group.index: np.ones(group.n_units, dtype=bool) for group in traced.groups}

    def by_table(scores: methods.Scores, keep: Keep, budget: selection.Budget) -> Keep:
        made = methods.curves(scores, keep)
        return whole | spent(made, traced, budget, settings, keep, speed)

    def spend(scores: methods.Scores, keep: Keep, share: float) -> Keep:
        budget = part_way(wanted, targets, traced, full, share, {})
        choose = partial(by_table, scores, keep)
        if share < 1:
            return choose(budget)
        return within(speed, model, traced, budget, lambda asked: dict(choose(asked)))

    # a budget that cannot be met is told now, with its own numbers, and not after many rounds
    nothing = {g.index: np.zeros(g.n_units) for g in traced.groups}
    by_table(nothing, {}, part_way(wanted, targets, traced, full, 1.0, {}))
    if isinstance(method, methods.TrainingMethod):
        assert settings.training is not None
        told = replace(settings.training, progress=lambda done, steps: report("train", done, steps))
        made = methods.trained(method, question, told, spend)
        clock.lap("train")
        # the method gives back a copy of the same class
        trained: Model = made.model  # type: ignore[assignment]
        kind = {"training": _trained_how(settings.training, made)}
        return _plan(trained, traced, made.keep, data, wanted, settings, clock, (), kind, speed)
    assert isinstance(method, methods.ScoringMethod)
    trails = ScoreTrails()

    def followed(scores: methods.Scores, keep: Keep, share: float) -> Keep:
        left = spend(scores, keep, share)
        trails.follow(scores, keep, left)
        return left

    keep = methods.in_rounds(
        method, question, followed, lambda done, rounds: report("score", done, rounds)
    )
    clock.lap("plan" if method.needs == "nothing" else "capture")
    made_from = trails.trails(traced)
    return _plan(model, traced, keep, data, wanted, settings, clock, made_from, speed=speed)


def plans_by_method(
    model: Model,
    traced: ChannelGraph,
    data: Sequence[statistics.Batch],
    budgets: Sequence[selection.Budget],
    settings: Options,
    report: Progress,
    clock: Clock,
    speed: Speed | None = None,
) -> list[Plan[Model]]:
    """One plan for each budget from one scoring."""
    method = settings.method
    if not isinstance(method, methods.ScoringMethod):
        raise InputError(
            f"mipp.plans was given a method that trains towards one budget: {method}. Call "
            "mipp.plan for each."
        )
    scores = methods.ask(method, _question(model, traced, data, settings))
    report("score", 1, 1)
    clock.lap("plan" if method.needs == "nothing" else "capture")
    made = methods.curves(scores, {})
    whole = {group.index: np.ones(group.n_units, dtype=bool) for group in traced.groups}
    found = []
    for budget in budgets:
        keep = whole | within(
            speed, model, traced, budget, lambda b: spent(made, traced, b, settings, speed=speed)
        )
        clocked = speed if "latency" in budget.bounds else None
        trails = ScoreTrails()
        trails.follow(scores, whole, keep)
        told = trails.trails(traced)
        found.append(_plan(model, traced, keep, data, budget, settings, clock, told, speed=clocked))
    return found


def _question(
    model: Model, traced: ChannelGraph, data: Sequence[statistics.Batch], settings: Options
) -> methods.Question:
    return methods.Question(model, traced, data, settings.loss, settings.seed)


def _trained_how(training: methods.Training, made: methods.Trained) -> dict[str, Any]:
    """The recipe, what training by it came to, and what else the method says, for the record."""
    cost = {} if made.cost is None else asdict(made.cost)
    return {"recipe": asdict(training.recipe), "cost": cost, "notes": dict(made.notes)}


def _plan(
    model: Model,
    traced: ChannelGraph,
    keep: Keep,
    data: Sequence[statistics.Batch],
    budget: selection.Budget,
    settings: Options,
    clock: Clock,
    trails: tuple[Trail, ...],
    more: Mapping[str, Any] | None = None,
    speed: Speed | None = None,
) -> Plan[Model]:
    by_name = {g.name: tuple(np.flatnonzero(keep[g.index]).tolist()) for g in traced.groups}
    nats = dict.fromkeys(by_name, (float("nan"), float("nan")))
    words = to_dict(settings, str(budget)) | {"loss": ""} | dict(more or {})
    record = made_record(model, traced, by_name, nats, words, trails, speed, data)
    clock.lap("plan")
    seconds = dict(clock.seconds)
    return Plan(record, model, traced, data, settings.refit, seconds, settings.outputs)
