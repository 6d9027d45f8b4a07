"""The same size from scratch: a net of a plan's widths with new weights, and how long to train it.

Liu et al. 2019, "Rethinking the value of network pruning" (arXiv 1810.05270), call them Scratch-E
(as many epochs as the net that was pruned) and Scratch-B (as much computation).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import nn

from mipp import graph, selection, surgery
from mipp.checks import checked
from mipp.errors import InputError
from mipp.methods.shared.iterative import curves_of_scores
from mipp.prunable import protected
from mipp.records import BoolArray, ChannelGraph, Cost
from mipp.retrain import Recipe
from mipp.tracing.guards import duplicate, generators_kept, gradients_enabled

Module = TypeVar("Module", bound=nn.Module)
Model_co = TypeVar("Model_co", bound=nn.Module, covariant=True)

Initialise = Callable[[nn.Module], None]
"""Gives all weights of a module new values, in place."""

Match = Literal["params", "macs", "units"]
"""Cost that a net of uniform widths shares with the plan's as an upper bound."""


@runtime_checkable
class Plan(Protocol[Model_co]):
    """The part of `mipp.Plan` that decides the size of a net."""

    @property
    def record(self) -> surgery.PlanRecord:
        """The plan as plain data."""
        ...

    @property
    def model(self) -> Model_co | None:
        """The model that the plan is for."""
        ...

    @property
    def traced(self) -> ChannelGraph | None:
        """The groups of its units."""
        ...

    @property
    def after(self) -> Cost:
        """The cost of what stays."""
        ...

    def apply(self, refit: bool) -> Model_co:
        """The smaller model."""
        ...


@gradients_enabled()
@checked
def same_size(
    plan: Plan[Module],
    seed: int = 0,
    *,
    widths: Literal["plan", "uniform"] = "plan",
    match: Match = "params",
    initialise: Initialise | None = None,
) -> Module:
    """A net of the plan's size with new weights, to be trained from the start.

    Train it by the recipe of `equal_epochs` or `equal_compute`.

    Args:
        plan: A plan with its model.
        seed: Of the new weights.
        widths: ``"plan"``, exactly those that the plan chose, or ``"uniform"``, the same share of
            every group, with no more ``match`` than the plan has; protected groups stay whole.
        match: ``"params"``, ``"macs"`` or ``"units"``.
        initialise: Gives all weights of the net new values, where its modules cannot do it by
            ``reset_parameters`` (see `fresh`).

    Raises:
        InputError: The plan has no model (for uniform widths, no batches), or nothing gives some
            weights new values.
    """
    if plan.model is None:
        raise InputError(
            "This plan was read without a model. Use mipp.Plan.from_json(text, model)."
        )
    if widths == "plan":
        small = fresh(plan.apply(refit=False), seed, initialise)
        surgery.zero_placeholders(small, plan.record)
        return small
    traced, options = plan.traced, plan.record.options
    if traced is None:
        raise InputError(
            "Uniform widths need the traced model. Read the plan with "
            "mipp.Plan.from_json(text, model, batches)."
        )
    limits = selection.Limits(
        # as small as need be: it is the size that has to agree
        round_to=options.get("round_to", 1),
        protected=frozenset(protected(traced, options.get("protect", ()))),
    )
    keep = uniform_widths(traced, plan.after, match, limits)
    kept = surgery.kept_indices(traced, keep)
    return fresh(surgery.slice_graph(plan.model, traced, kept), seed, initialise)


def fresh(model: Module, seed: int = 0, initialise: Initialise | None = None) -> Module:
    """A copy in its shapes with new weights and statistics; global generators stay unchanged.

    Every module that has ``reset_parameters`` calls it, outer ones after those inside them, so that
    the scale of the weights is that of the copy's own widths.

    Args:
        model: Gives the shapes.
        seed: Of the new weights.
        initialise: Called after that, with the copy. It has to be given where a module has weights
            and no such method; weights that nothing has set are NaN then.

    Raises:
        InputError: Nothing gives some weights new values.
    """
    made = duplicate(model)
    with generators_kept({p.device for p in made.parameters()}), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in made.parameters():
            # weights that nothing resets must not keep their old values
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

    Units left over by rounding are given to one group after the other.

    Args:
        traced: The groups.
        after: The cost.
        match: Which of its numbers is the bound.
        limits: How narrow each group may become.

    Raises:
        BudgetError: The cost cannot be reached within ``limits``.
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

    Args:
        training: The recipe of the whole net.
        before: Cost of the whole net, which is trained, such as ``plan.before``.
        after: Cost of the small net, which is retrained, such as ``plan.after``.
        retraining: The recipe of the small net.
        most: Bound on the epochs, in multiples of `equal_epochs`. None, as in the authors' code for
            CIFAR, sets no bound.

    Raises:
        InputError: The small net has no multiply-accumulates, or ``most`` is below 1.
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
