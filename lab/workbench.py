"""What the kinds share: nets, plans, retraining and their measures, all from one item."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import torch
from torch import nn

from lab import method_options, parents
from lab.images import balanced_accuracy, test_images, train_images
from lab.measurements import (
    Accuracies,
    CostChange,
    Costs,
    Item,
    Left,
    OwnTraining,
    Result,
    Seconds,
)
from mipp import data, methods, planning, retrain
from mipp.errors import InputError
from mipp.records import Cost

TEST_BATCH = 250
"""Activations of so many images stay in a processor's cache, for nets of this size."""
Out = TypeVar("Out")


@dataclass(frozen=True, eq=False)
class Workbench:
    """One item on one device; nets and images are made when they are first asked for.

    ``seconds`` fills up with what is timed.
    """

    item: Item
    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def model(self) -> nn.Module:
        """The net that is pruned: the trained parent, or the net at initialisation."""
        if self.item.stage == "init":
            return parents.fresh(self.item).to(self.device)
        return parents.parent(self.item, self.device).model

    @cached_property
    def calibration(self) -> list[data.image_batches.Batch]:
        """The images that a method may look at, in equal numbers of every class."""
        assert self.item.calibration is not None
        images = train_images(self.item)
        n_samples = min(self.item.calibration.samples, len(images))
        return data.calibration(images, n_samples, 256, self.item.seed)

    def accuracy(self, model: nn.Module) -> float:
        """Share of the test split that it has right."""
        batches = data.Batches(test_images(self.item), TEST_BATCH)
        return retrain.evaluate(model, batches, channels_last="auto").accuracy

    def balanced(self, model: nn.Module) -> float:
        """Mean over classes of the share that it has right."""
        return balanced_accuracy(model, test_images(self.item))

    def timed(self, stage: str, work: Callable[[], Out]) -> Out:
        """What ``work`` gives; its seconds are added to those of the stage."""
        started = time.perf_counter()
        found = work()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started
        return found

    def plan(self, **more: Any) -> "planning.Plan[nn.Module]":
        """The plan of the item's method for its budget; ``more``: options of `mipp.plan`."""
        item = self.item
        assert item.method is not None
        given = method_options.arguments(item.method.name, item.method.options)
        given |= {"seed": item.seed, **more}
        method = given.get("method")
        if isinstance(method, methods.TrainingMethod):
            recipe = self.retraining_recipe()
            batches = parents.training_batches(item, recipe, item.seed + 100)
            given["training"] = methods.Training(batches, recipe)
        if method_options.WIDTHS in item.method.options:
            mine = {"seed": item.seed, **more}
            given["widths"] = planning.plan(self.model, self.calibration, item.budget, **mine)
        else:
            given["budget"] = item.budget
        model, calibration = self.model, self.calibration
        return self.timed("plan", lambda: planning.plan(model, calibration, **given))

    def retraining_recipe(self) -> retrain.Recipe:
        """The recipe of the net with the epochs and the rate of retraining."""
        retraining = self.item.retraining
        if retraining is None:
            raise InputError(
                f"retraining.{self.item.stage} is missing in the suite, and something has to be "
                "trained. Add the section."
            )
        recipe = parents.recipe_of(self.item.net)
        rate = recipe.peak_lr if retraining.rate is None else retraining.rate
        return dataclasses.replace(recipe, epochs=retraining.epochs, peak_lr=rate)

    def train(self, model: nn.Module, recipe: retrain.Recipe) -> None:
        """Trains a pruned net, in place, the same way for every method."""
        batches = parents.training_batches(self.item, recipe, self.item.seed + 100)
        seed = self.item.seed
        self.timed(
            "retrain", lambda: retrain.train(model, batches, recipe, seed=seed, progress=False)
        )

    def measured(self, **found: Any) -> Result:
        """The result, with the seconds so far; ``total`` is put in when the item is done."""
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return Result(seconds=Seconds(total=0.0, **seconds), **found)


def sizes(plan: "planning.Plan[nn.Module]") -> dict[str, Any]:
    """What is left, in all and by group, as parts of a result."""
    before, after = _costs(plan.before), _costs(plan.after)
    left = {n: getattr(after, n) / getattr(before, n) for n in ("macs", "params", "units")}
    return {
        "left": Left(**left),
        "cost": CostChange(before=before, after=after),
        "widths": {s.name: (s.units_after, s.units_before) for s in plan.summary},
        "collapsed": list(plan.collapsed),
        "at_floor": [s.name for s in plan.summary if s.units_after == 1],
    }


def own_training(plan: "planning.Plan[nn.Module]") -> OwnTraining | None:
    """What the method has trained by itself."""
    training = plan.record.options.get("training", {})
    cost = training.get("cost") if isinstance(training, dict) else None
    return OwnTraining(epochs=cost["epochs"], macs=cost["macs"]) if cost else None


def finished(
    workbench: Workbench,
    plan: "planning.Plan[nn.Module] | None" = None,
    *,
    balanced: bool = False,
) -> Result:
    """Plan, accuracies at once and with the shared refit, retraining: what most kinds want.

    At initialisation outputs are worth nothing, and only what is retrained is told. Methods that
    leave trained weights are not retrained: ``retrained`` is then what they are at once.
    """
    item = workbench.item
    assert item.method is not None
    plan = workbench.plan() if plan is None else plan
    small = workbench.timed("apply", lambda: plan.apply(refit=False))
    measures = {"accuracy": workbench.accuracy}
    if balanced:
        measures["balanced_accuracy"] = workbench.balanced
    found: dict[str, dict[str, float]] = {name: {} for name in measures}

    def note(moment: str, model: nn.Module) -> None:
        for name, measure in measures.items():
            found[name][moment] = measure(model)

    trains_last = method_options.trains_last(item.method.name, item.method.options)
    if item.stage == "trained" or trains_last:
        note("at_once", small)
    if item.stage == "trained":
        for name, value in unpruned(parents.item_of(item), workbench.device, balanced).items():
            found[name]["unpruned"] = value
        refit = plan.apply(refit=True)
        note("refit", refit)
        if item.method.retrain_from == "refit":
            small = refit
    if trains_last:
        for moments in found.values():
            moments["retrained"] = moments["at_once"]
    elif item.retraining is not None:
        workbench.train(small, workbench.retraining_recipe())
        note("retrained", small)
    nats = {
        s.name: (s.nats_before, max(s.nats_before - s.nats_after, 0.0))
        for s in plan.summary
        if s.nats_before == s.nats_before  # NaN where a method measures none
    }
    return workbench.measured(
        **{name: Accuracies(**moments) for name, moments in found.items()},
        **sizes(plan),
        nats=nats or None,
        own_training=own_training(plan),
    )


@lru_cache(maxsize=64)
def unpruned(parent: Item, device: torch.device, balanced: bool) -> dict[str, float]:
    """Accuracies of a trained net, measured once in a process for all items that start from it."""
    workbench = Workbench(parent, device)
    model = parents.parent(parent, device).model
    found = {"accuracy": workbench.accuracy(model)}
    return found | {"balanced_accuracy": workbench.balanced(model)} if balanced else found


def _costs(cost: Cost) -> Costs:
    return Costs(macs=cost.macs, params=cost.params, units=cost.units)
