"""The work of ``mipp prune``, which the demo does too."""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mipp import methods, planning, retrain, selection
from mipp.cli.frontier_budgets import other_budgets
from mipp.cli.measuring import latency_ms
from mipp.cli.names import FINE_TUNING
from mipp.cli.opening import Subject
from mipp.cli.outcome import AnyPlan, Outcome
from mipp.cli.output import Guard, Output
from mipp.errors import BudgetError
from mipp.options import BlockOptions, Options, WeightOptions
from mipp.planning.block_options import block_budget
from mipp.planning.budget_values import wanted_budget, weight_budget
from mipp.planning.granularity import read_options
from mipp.retrain import Recipe
from mipp.tuning import Tune


@dataclass(frozen=True)
class Task:
    """What to do with a model.

    Attributes:
        budget: what may be left.
        options: of `mipp.plan`.
        retrain: the recipe of retraining; None for no retraining.
        seed: of the plan, of the order of batches and of training.
        train: the recipe of methods that train, None for the others.
        granularity: of `mipp.plan`.
        frontier: whether to plan for other budgets, too, where one measurement serves them all.
        tune: how the pruned model is tuned on the calibration examples; None for not at all.
    """

    budget: selection.Budget | None
    options: Mapping[str, Any]
    retrain: Recipe | None
    seed: int
    train: Recipe | None = None
    granularity: str = "unit"
    frontier: bool = False
    tune: Tune | None = None

    def __post_init__(self) -> None:
        """Options that do not fit are reported now, before data are read."""
        options = self.read()
        if isinstance(options, WeightOptions):
            weight_budget(self.budget, options)
        elif isinstance(options, BlockOptions):
            block_budget(self.budget)
        else:
            wanted_budget(self.budget, options)

    def read(self) -> Options | WeightOptions | BlockOptions:
        """The options as a record."""
        return read_options(self.granularity, self.with_training(()))

    def with_training(self, batches: Iterable[Any]) -> dict[str, Any]:
        """The options, with these batches if the method trains."""
        given = {} if self.train is None else {"training": methods.Training(batches, self.train)}
        return dict(self.options) | given


def run(
    task: Task, subject: Subject, model: nn.Module, output: Output, guard: Guard
) -> tuple[nn.Module, Outcome]:
    """The pruned model, and its numbers before and after."""
    with output.collected() as warned:
        small, outcome = _run(task, subject, model, output, guard)
    return small, replace(outcome, warnings=tuple(warned))


def _run(
    task: Task, subject: Subject, model: nn.Module, output: Output, guard: Guard
) -> tuple[nn.Module, Outcome]:
    network, source, metric = subject.network, subject.source, subject.metric

    def score(of: nn.Module) -> float | None:
        if metric is None:
            return None
        with output.busy("evaluating"):
            return metric.measure(of, source.test()).value

    before = score(model)
    batches = source.calibration(task.read().samples, task.seed)
    options = task.with_training(
        () if task.train is None
        else source.train(task.train.batch_size, task.seed, task.train.augment)
    )  # fmt: skip
    with output.followed() as progress, guard.arguments():
        plan, *others = _plans(task, model, batches, progress, options)
    smaller = not isinstance(plan, planning.WeightPlan)
    start = time.perf_counter()
    with output.followed() as progress:
        small = plan.apply(progress=progress)
    seconds = time.perf_counter() - start
    after, retrained, tuned, tuned_score = score(small), None, None, None
    if task.tune is not None:
        with output.followed() as progress:
            small, tuned = plan.apply_tuned(task.tune, progress=progress)
        tuned_score = score(small)
    if task.retrain is not None:
        with output.followed() as progress:
            retrain.train(
                network.classifier(small),
                source.train(task.retrain.batch_size, task.seed, task.retrain.augment),
                task.retrain,
                teacher=network.classifier(model) if task.retrain.distill_weight else None,
                step=plan.hold(small) if isinstance(plan, planning.WeightPlan) else None,
                seed=task.seed,
                progress=progress,
            )
        retrained = score(small)
    times = None
    if smaller:
        # no spinner, which would run in a thread of its own beside what is measured
        first, second = latency_ms([model, small], source.test())
        times = (first, second)
    outcome = Outcome(
        plan=plan,
        others=others,
        metric=metric,
        scores=None if before is None or after is None else (before, after),
        tuned=tuned,
        tuned_score=tuned_score,
        retrained=retrained,
        latency_ms=times,
        threads=torch.get_num_threads(),
        apply_seconds=seconds,
        seed=task.seed,
    )
    return small, outcome


def _plans(
    task: Task,
    model: nn.Module,
    batches: Iterable[Any],
    progress: bool | None,
    options: Mapping[str, Any],
) -> list[AnyPlan]:
    """The plan, and those of other budgets where the report shows them."""
    given: dict[str, Any] = {
        "granularity": task.granularity, "progress": progress, "seed": task.seed, **options
    }  # fmt: skip
    wanted = task.budget
    if task.frontier and wanted is not None and task.train is None:
        others = other_budgets(wanted, task.read(), model, batches)
        with suppress(BudgetError):  # what has to stay can be more than was foreseen
            return list(planning.plans(model, batches, [wanted, *others], **given))
    return [planning.plan(model, batches, task.budget, **given)]


def fine_tuning(
    recipe: Recipe, epochs: int, peak_lr: float | None = None, distill: float = 0.0
) -> Recipe:
    """A recipe that continues from good weights."""
    rate = recipe.peak_lr / FINE_TUNING if peak_lr is None else peak_lr
    return replace(recipe, epochs=epochs, peak_lr=rate, distill_weight=distill)
