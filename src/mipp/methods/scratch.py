"""The same size from scratch: a net of a plan's widths with new weights, and how long to train it.

Liu et al. 2019, "Rethinking the value of network pruning" (arXiv 1810.05270), call them Scratch-E
(as many epochs as the net that was pruned) and Scratch-B (as much computation).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import nn

from mipp import graph, selection
from mipp.errors import InputError
from mipp.methods.shared.iterative import curves_of_scores
from mipp.records import BoolArray, ChannelGraph, Cost
from mipp.retrain import Recipe
from mipp.tracing.guards import duplicate

Module = TypeVar("Module", bound=nn.Module)

Initialise = Callable[[nn.Module], None]
"""Gives all weights of a module new values, in place."""

Match = Literal["params", "macs", "units"]
"""What a net of uniform widths has no more of than the plan's."""


def fresh(model: Module, seed: int = 0, initialise: Initialise | None = None) -> Module:
    """A copy in its shapes with new weights and statistics; the global generators stay as they are.

    Every module that has ``reset_parameters`` calls it, outer ones after those inside them, so that
    the scale of the weights is that of the copy's own widths. ``initialise`` is called after that,
    with the copy, and has to be given where a module has weights and no such method; what is not
    set before is NaN then.

    Raises:
        InputError: weights that nothing gives new values to.
    """
    made = duplicate(model)
    devices = sorted({p.device.index or 0 for p in made.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in made.parameters():
            # old weights that something leaves as they are would make this no training from scratch
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.fill_(torch.nan)
        for _, module in reversed(list(made.named_modules())):
            method = getattr(module, "reset_parameters", None) or getattr(
                module, "_reset_parameters", None
            )
            if callable(method):
                method()
        if initialise is not None:
            initialise(made)
        left = [name for name, p in made.named_parameters() if p.isnan().any()]
        if left:
            raise InputError(
                f"nothing gives new values to {', '.join(left[:4])}{' ...' * (len(left) > 4)}: no "
                "reset_parameters of a module that holds them does, and no initialise=. Add such a "
                "method, or give initialise= a function that takes the module and sets them."
            )
    return made


def uniform_widths(
    traced: ChannelGraph,
    after: Cost,
    match: Match = "params",
    limits: selection.Limits | None = None,
) -> dict[int, BoolArray]:
    """Masks that keep the same share of every group, the first units, at no more than that cost.

    What rounding leaves over is given to one group after the other.

    Raises:
        BudgetError: it cannot be reached within ``limits``.
    """
    scores = {group.index: np.arange(group.n_units, 0.0, -1.0) for group in traced.groups}
    bound = selection.Budget({match: (float(getattr(after, match)), False)})
    n_units = {group.index: group.n_units for group in traced.groups}
    model = graph.CostModel(traced)
    return selection.spend(curves_of_scores(scores, {}), n_units, model, bound, limits, "uniform")


def equal_epochs(training: Recipe, retraining: Recipe | None = None) -> Recipe:
    """Scratch-E: the recipe of the whole net, with the epochs of retraining added to its own."""
    more = 0 if retraining is None else retraining.epochs
    return replace(training, epochs=training.epochs + more)


def equal_compute(
    training: Recipe,
    before: Cost,
    after: Cost,
    retraining: Recipe | None = None,
    *,
    most: float | int | None = None,
) -> Recipe:
    """Scratch-B: as many epochs as take the multiply-accumulates of training and retraining.

    ``before``, ``after``: of the whole net, which is trained, and the small one, which is
    retrained, such as ``plan.before`` and ``plan.after``. ``most``: at most so many times
    `equal_epochs`; None, as in the authors' code for CIFAR, does not bound them.

    Raises:
        InputError: a small net without multiply-accumulates, or ``most`` below 1.
    """
    if not after.macs > 0:
        raise InputError(
            f"after= has {after.macs} multiply-accumulates; expected the cost of a net that "
            "computes something."
        )
    if most is not None and not most >= 1:
        raise InputError(f"most={most}; expected at least 1.")
    equal = equal_epochs(training, retraining)
    epochs = training.epochs * before.macs / after.macs + (equal.epochs - training.epochs)
    if most is not None:
        epochs = min(epochs, most * equal.epochs)
    return replace(equal, epochs=max(1, round(epochs)))
