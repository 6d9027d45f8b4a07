"""The work of ``mipp prune``, which the demo does too: evaluate, plan, apply, retrain, measure."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mipp import methods, planning, retrain, selection
from mipp.cli.datasets import Source
from mipp.cli.exit_codes import Guard
from mipp.cli.model_names import Network
from mipp.cli.output import Output
from mipp.cli.prune import FINE_TUNING
from mipp.cli.results import Outcome, latency_ms
from mipp.options import Options, WeightOptions
from mipp.planning.budget_values import weight_budget
from mipp.planning.option_values import read_options
from mipp.retrain import Recipe


@dataclass(frozen=True)
class Task:
    """What is to be done to a model.

    Attributes:
        options: of `mipp.plan`.
        retrain: the recipe of retraining, None for not.
        train: the recipe of methods that train, None for the others.
        granularity: of `mipp.plan`.
    """

    budget: selection.Budget | None
    options: Mapping[str, Any]
    retrain: Recipe | None
    seed: int
    train: Recipe | None = None
    granularity: str = "unit"

    def __post_init__(self) -> None:
        """Options that do not fit are reported now, before data are read."""
        options = self.read()
        if isinstance(options, WeightOptions):
            weight_budget(self.budget, options)
        else:
            planning.wanted_budget(self.budget, options)

    def read(self) -> Options | WeightOptions:
        """The options as a record."""
        return read_options(self.granularity, self.with_training(()))

    def with_training(self, batches: Iterable[Any]) -> dict[str, Any]:
        """The options, with these batches where the method trains on them."""
        given = {} if self.train is None else {"training": methods.Training(batches, self.train)}
        return dict(self.options) | given


def run(
    task: Task, network: Network, model: nn.Module, source: Source, output: Output, guard: Guard
) -> tuple[nn.Module, Outcome]:
    """The pruned model, and what it came to."""

    def accuracy(of: nn.Module) -> float:
        with output.busy("evaluating"):
            return retrain.evaluate(network.classifier(of), source.test()).accuracy

    before = accuracy(model)
    batches = source.calibration(task.read().samples, task.seed)
    options = task.with_training(
        () if task.train is None
        else source.train(task.train.batch_size, task.seed, task.train.augment)
    )  # fmt: skip
    with output.stages() as progress, guard.arguments():
        plan: planning.Plan[Any] | planning.WeightPlan[Any] = planning.plan(
            model, batches, task.budget, granularity=task.granularity,  # type: ignore[call-overload]
            progress=progress, seed=task.seed, **options,
        )  # fmt: skip
    of_units = isinstance(plan, planning.Plan)
    start = time.perf_counter()
    with output.busy("slicing and refitting" if of_units else "setting zeros and refitting"):
        small = plan.apply()
    seconds = time.perf_counter() - start
    after, retrained = accuracy(small), None
    if task.retrain is not None:
        retrain.train(
            network.classifier(small),
            source.train(task.retrain.batch_size, task.seed, task.retrain.augment),
            task.retrain,
            teacher=network.classifier(model) if task.retrain.distill_weight else None,
            step=None if isinstance(plan, planning.Plan) else plan.hold(small),
            seed=task.seed,
        )
        retrained = accuracy(small)
    times = None
    if of_units:
        # no spinner, which would run in a thread of its own beside what is measured
        first, second = latency_ms([model, small], source.test())
        times = (first, second)
    outcome = Outcome(
        plan=plan,
        accuracy=(before, after),
        retrained=retrained,
        latency_ms=times,
        threads=torch.get_num_threads(),
        apply_seconds=seconds,
        seed=task.seed,
    )
    return small, outcome


def fine_tuning(
    recipe: Recipe, epochs: int, peak_lr: float | None = None, distill: float = 0.0
) -> Recipe:
    """A recipe that goes on from good weights."""
    rate = recipe.peak_lr / FINE_TUNING if peak_lr is None else peak_lr
    return replace(recipe, epochs=epochs, peak_lr=rate, distill_weight=distill)
