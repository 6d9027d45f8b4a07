"""``scratch``: pruned and retrained nets beside nets of the same size trained from new weights."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from lab import parents
from lab.kinds.kind import Kind
from lab.measurements import Accuracies, Item, OwnTraining, Result
from lab.suite import Section, Suite
from lab.workbench import Workbench, finished, sizes
from mipp import methods
from mipp.errors import InputError

NEW_SEED = 1000
"""Added to the item's seed for the new weights."""


class Settings(Section):
    """``widths`` of nets from scratch, their ``training``, and ``most`` times the equal epochs."""

    widths: tuple[Literal["plan", "uniform"], ...] = ("plan", "uniform")
    training: tuple[Literal["epochs", "compute"], ...] = ("epochs", "compute")
    most: float | None = Field(default=None, ge=1)


def expand(suite: Suite, settings: Settings) -> Iterator[Item]:
    """Every row pruned, and from scratch in each way."""
    if "init" in suite.stages:
        raise InputError(
            "stages has 'init', where every net is trained from scratch; expected ['trained']."
        )
    for row in suite.rows():
        yield row.model_copy(update={"initial": "pruned"})
        for widths in settings.widths:
            for training in settings.training:
                most = settings.most if training == "compute" else None
                yield row.model_copy(update={"initial": widths, "training": training, "most": most})


def perform(workbench: Workbench) -> Result:
    """From scratch it is trained as the parent was, and longer for what retraining takes."""
    item = workbench.item
    if item.initial == "pruned":
        return finished(workbench)
    assert item.initial is not None
    plan = workbench.plan()
    model = methods.scratch.same_size(plan, seed=item.seed + NEW_SEED, widths=item.initial)
    training, retraining = parents.recipe_of(item.net), workbench.retraining_recipe()
    recipe = methods.scratch.equal_epochs(training, retraining)
    if item.training == "compute":
        recipe = methods.scratch.equal_compute(
            training, plan.before, plan.after, retraining, most=item.most
        )
    workbench.train(model, recipe)
    shape = sizes(plan) if item.initial == "plan" else {"left": sizes(plan)["left"]}
    return workbench.measured(
        accuracy=Accuracies(retrained=workbench.accuracy(model)),
        own_training=OwnTraining(epochs=recipe.epochs),
        **shape,
    )


KIND = Kind("scratch", "nets of the same size, trained from scratch", expand, perform, Settings)
