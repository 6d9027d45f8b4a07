"""How pruned nets at full width are retrained, what may help there, and nets from scratch."""

import math
import time
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

import mipp
from lab import wide_nets
from lab.wide_plans import (
    Planned,
    Scaled,
    Widths,
    blended,
    divergence,
    macs_of,
    of_widths,
    share_of,
)
from mipp import retrain

SHARE_OF_EPOCHS = 6
"""Retraining has a sixth of the parent's epochs, rounded up."""
SHARE_OF_RATE = 5
"""Its highest learning rate is a fifth of the parent's."""
N_CANDIDATES = 16
"""Widths that the search tries."""
SPREAD = 0.2
"""Standard deviation of the logarithms of their widths."""
MOST = 4.0
"""As much compute is at most so many times the epochs."""
VARIANTS = ("plain", "bare", "gentle", "kinds", "blended", "searched", "distilled", "twice")
"""What is changed: ``plain`` retrains the refitted net; ``bare`` the one without a refit;
``gentle`` refits with a ridge of 0.1 in place of 0.001; ``kinds`` has the same width in layers of a
kind; ``blended`` the geometric mean of priced and uniform widths; ``searched`` widths around the
priced ones, by the divergence from the parent's predictions on held-out calibration images;
``distilled`` learns from the parent as much as from labels; ``twice`` prunes half of the way,
distils for half of the epochs, prunes the rest and distils again."""

Training = Literal["short", "epochs", "compute"]


def recipe_for(net: wide_nets.WideNet, epochs: int | None = None) -> retrain.Recipe:
    """Of the retraining."""
    wanted = math.ceil(net.recipe.epochs / SHARE_OF_EPOCHS) if epochs is None else epochs
    peak = net.recipe.peak_lr / SHARE_OF_RATE
    return replace(net.recipe, epochs=wanted, peak_lr=peak, warmup=0.1)


def retrained(
    made: Planned, budget: str, variant: str, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The net, pruned as the variant wants it and retrained; what that came to."""
    distils = variant in ("distilled", "twice")
    started = time.process_time()
    if variant == "twice":
        small, recipe = _half_way(made, budget, seed)
    else:
        small, recipe = _pruned(made, budget, variant, seed), recipe_for(made.net)
    pruned = time.process_time() - started
    if distils:
        recipe = replace(recipe, distill_weight=0.5)
    history = _train(made, small, recipe, seed, distils=distils)
    return small, {
        "epochs": recipe_for(made.net).epochs,
        "macs": macs_of(small, made.batches[0]) / macs_of(made.model, made.batches[0]),
        "seconds_pruning": round(pruned, 1),
        "seconds": round(sum(epoch.seconds for epoch in history.epochs), 1),
    }


def scratch(
    made: Planned, budget: str, training: Training, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """A net of the plan's widths with new weights, trained."""
    plan = made.plans[budget]
    small = plan.apply(refit=False)
    torch.manual_seed(1000 + seed)
    for module in reversed(list(small.modules())):  # the net's own draw comes last
        if callable(draw := getattr(module, "reset_parameters", None)):
            draw()
    short = recipe_for(made.net).epochs
    epochs = {"short": short, "epochs": made.net.recipe.epochs + short}
    compute = made.net.recipe.epochs * plan.before.macs / plan.after.macs + short
    epochs["compute"] = round(min(compute, MOST * epochs["epochs"]))
    recipe = replace(made.net.recipe, epochs=epochs[training])
    history = _train(made, small, recipe, seed)
    seconds = sum(epoch.seconds for epoch in history.epochs)
    return small, {"epochs": recipe.epochs, "seconds": round(seconds, 1)}


def _train(
    made: Planned, small: nn.Module, recipe: retrain.Recipe, seed: int, *, distils: bool = False
) -> retrain.History:
    batches = wide_nets.training_batches(made.net, recipe, seed + 100)
    teacher = made.model if distils else None
    return retrain.train(small, batches, recipe, teacher=teacher, seed=seed, progress=False)


def _pruned(made: Planned, budget: str, variant: str, seed: int) -> nn.Module:
    plan = made.plans[budget]
    if variant == "bare":
        return plan.apply(refit=False)
    if variant == "gentle":
        return plan.apply(mipp.Refit(ridge=0.1), progress=False)
    if variant == "kinds":
        return _planned(made, budget, seed, allocation="kinds").apply(progress=False)
    if variant == "blended":
        both = [plan, _planned(made, budget, seed, allocation="uniform")]
        widths = _scaled(made, budget)(blended(both))
        return _planned(made, of_widths(widths), seed).apply(progress=False)
    if variant == "searched":
        return _searched(made, budget, seed)
    return plan.apply(progress=False)


def _planned(
    made: Planned, budget: str | dict[str, str], seed: int, **options: Any
) -> "mipp.Plan[nn.Module]":
    return mipp.plan(made.model, made.batches, budget, seed=seed, progress=False, **options)


def _scaled(made: Planned, budget: str) -> Scaled:
    return Scaled(made.model, made.batches[0], share_of(budget))


def _searched(made: Planned, budget: str, seed: int) -> nn.Module:
    """The best of widths drawn around the priced ones, and of those themselves."""
    *learned, held_out = made.batches
    priced = {name: after for name, (_, after) in made.plans[budget].widths.items()}
    scaled, generator = _scaled(made, budget), np.random.default_rng(seed)
    tried: list[Widths] = [priced]
    for _ in range(N_CANDIDATES):
        factors = np.exp(SPREAD * generator.standard_normal(len(priced)))
        tried.append(scaled({n: w * f for (n, w), f in zip(priced.items(), factors, strict=True)}))
    budgets = [of_widths(widths) for widths in tried]
    plans = mipp.plans(made.model, learned, budgets, seed=seed, progress=False)
    lost = [divergence(made.model, plan.apply(progress=False), [held_out]) for plan in plans]
    best = tried[int(np.argmin(lost))]
    return _planned(made, of_widths(best), seed).apply(progress=False)


def _half_way(made: Planned, budget: str, seed: int) -> tuple[nn.Module, retrain.Recipe]:
    """Pruned to the geometric mean of all and what is wanted, distilled, and pruned again."""
    share = _scaled(made, budget).share
    epochs = recipe_for(made.net).epochs
    first = recipe_for(made.net, max(1, epochs // 2))
    middle = _planned(made, f"macs={100 * math.sqrt(share):.2f}%", seed)
    between = middle.apply(progress=False)
    _train(made, between, replace(first, distill_weight=0.5), seed, distils=True)
    between.eval()
    left = middle.after.macs / middle.before.macs
    plan = mipp.plan(
        between, made.batches, f"macs={100 * share / left:.2f}%", seed=seed, progress=False
    )
    rest = max(1, epochs - first.epochs)
    return plan.apply(progress=False), recipe_for(made.net, rest)
