"""The work of ``mipp prune``, which the demo does too: evaluate, plan, apply, retrain, measure."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mipp import methods, planning, retrain, selection
from mipp.cli import model_cost
from mipp.cli.datasets import Source
from mipp.cli.model_names import Network
from mipp.cli.output import Output
from mipp.cli.results import Outcome
from mipp.planning.option_values import unit_options
from mipp.retrain import Recipe

FINE_TUNING = 5
"""Retraining starts from weights that are good: its peak rate is the recipe's over this."""


@dataclass(frozen=True)
class Task:
    """What is to be done to a model.

    ``options``: of `mipp.plan`. ``retrain``: None for not. ``train``: the recipe of methods that
    train, None for the others.
    """

    budget: selection.Budget | None
    options: Mapping[str, Any]
    retrain: Recipe | None
    seed: int
    train: Recipe | None = None

    def __post_init__(self) -> None:
        """Options that do not fit are told now, before data are read."""
        planning.wanted_budget(self.budget, unit_options(**self.with_training(())))

    def with_training(self, batches: Iterable[Any]) -> dict[str, Any]:
        """The options, with these batches where the method trains on them."""
        given = {} if self.train is None else {"training": methods.Training(batches, self.train)}
        return dict(self.options) | given


def run(
    task: Task, network: Network, model: nn.Module, source: Source, output: Output
) -> tuple[nn.Module, Outcome]:
    """The pruned model, and what it came to."""

    def accuracy(of: nn.Module) -> float:
        with output.busy("evaluating"):
            return retrain.evaluate(network.classifier(of), source.test()).accuracy

    before = accuracy(model)
    samples = unit_options(**task.with_training(())).samples
    batches = source.calibration(samples, task.seed)
    options = task.with_training(
        () if task.train is None
        else source.train(task.train.batch_size, task.seed, task.train.augment)
    )  # fmt: skip
    with output.stages() as progress:
        plan = planning.plan(
            model, batches, task.budget, progress=progress, seed=task.seed, **options
        )
    start = time.perf_counter()
    with output.busy("slicing and refitting"):
        small = plan.apply()
    seconds = time.perf_counter() - start
    after, retrained = accuracy(small), None
    if task.retrain is not None:
        retrain.train(
            network.classifier(small),
            source.train(task.retrain.batch_size, task.seed, task.retrain.augment),
            task.retrain,
            teacher=network.classifier(model) if task.retrain.distill_weight else None,
            seed=task.seed,
        )
        retrained = accuracy(small)
    # no spinner, which would run in a thread of its own beside what is measured
    first, second = model_cost.latency_ms([model, small], source.test())
    outcome = Outcome(
        plan=plan,
        accuracy=(before, after),
        retrained=retrained,
        latency_ms=(first, second),
        threads=torch.get_num_threads(),
        apply_seconds=seconds,
        seed=task.seed,
    )
    return small, outcome


def fine_tuning(
    recipe: retrain.Recipe, epochs: int, peak_lr: float | None = None, distill: float = 0.0
) -> retrain.Recipe:
    """A recipe that goes on from good weights."""
    rate = recipe.peak_lr / FINE_TUNING if peak_lr is None else peak_lr
    return replace(recipe, epochs=epochs, peak_lr=rate, distill_weight=distill)
