"""TERC on its own, and the selection of input features by it."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mipp import information, selection
from mipp.checks import checked
from mipp.errors import InputError
from mipp.features.feature_selection import FeatureSelection
from mipp.features.model_input import as_examples, targets
from mipp.features.shape import units_of
from mipp.features.stopping import (
    CRITERION,
    NEARLY_ALL,
    eliminate,
    read_order,
    read_rule,
)
from mipp.records import IntArray
from mipp.statistics import Loss
from mipp.tracing.guards import gradients_enabled


@checked
def terc(
    X: Any,
    Y: Any,
    *,
    units: Any = None,
    estimator: "information.Estimator | str" = "gaussian",
    order: "selection.Order | str" = "ordered",
    stop: "selection.Stop | None" = None,
    confidence: float | None = None,
    share: float | int | None = None,
    keep: float | int | None = None,
    seed: int = 0,
) -> FeatureSelection:
    """Which units of X transfer entropy to Y: the transfer entropy redundancy criterion.

    A unit i stays only if I(X; Y) - I(X without i; Y) > 0, tested one unit at a time, the set of
    survivors updated after every removal. What the difference is depends on ``estimator``:
    ``"gaussian"`` sees linear relations and no others.

    Without a rule, units stay that pass the test of the paper with 95 % confidence
    (`mipp.Confidence`), and the elimination then goes on to the end, least nats first, so that
    ``order`` has every unit. With a rule it ends where the rule does. Give one at most: ``stop``, a
    record; ``confidence``, the level of that test (0.5 to below 1); ``share`` of the information to
    keep (above 0 to 1); ``keep``, a number of units or a share of them. No unit at all may stay,
    when not one can be shown to transfer entropy.

    Parameters:
        X: real numbers of shape (n_samples, n_features), array or tensor.
        Y: real numbers (n_samples,) or (n_samples, n_targets), or class indices of an integer or
            boolean type, shape (n_samples,).
        units: which unit each feature belongs to, a sequence of n_features whole numbers from 0;
            -1 for one that is always given. Every feature is a unit of its own by default.
        estimator: a name of `mipp.information.names` or a record such as ``mipp.Gaussian()``.
        order: ``"ordered"`` tests each unit once, least informative on its own first, as the paper
            does, so that of two sets that tell the same the larger, weaker one goes. ``"greedy"``
            tests the one that is least missed now, and ends with the first that must stay.
        seed: of all that is drawn.

    Raises:
        InputError: arguments that do not fit, or fewer than ten rows.

    Source: Westphal, Hailes and Musolesi, "Information-Theoretic State Variable Selection for
    Reinforcement Learning", arXiv 2401.11512 (algorithm 1, the criterion), and "Mutual Information
    Preserving Neural Network Pruning", arXiv 2411.00147 (algorithms 1 and 2, the ordering).
    """
    found = information.observations(X, Y)
    unit = units_of(found.inputs.shape[1:], "features" if units is None else units)
    view = replace(found, unit=torch.as_tensor(unit, device=found.inputs.device))
    rules = (stop, confidence, share, keep)
    return _run(view, unit, estimator, order, rules, CRITERION, seed)


@gradients_enabled()
@checked
def select_features(
    X: Any,
    Y: Any,
    *,
    units: Any = "positions",
    estimator: "information.Estimator | str" = "gaussian",
    noise: "float | str | None" = None,
    loss: Loss | str = "auto",
    order: "selection.Order | str" = "greedy",
    stop: "selection.Stop | None" = None,
    confidence: float | None = None,
    share: float | int | None = None,
    keep: float | int | None = None,
    seed: int = 0,
) -> FeatureSelection:
    """Which features of the input transfer entropy: to Y, or to the first layers of a model.

    With a model the target is what all layers that read the input give, at all positions of their
    maps, seen through noise: which pixels the (pruned) first layer needs. Their outputs are told
    apart as far as the loss can tell (``noise="fisher"``), or down to a share of each output's
    variance (``noise=0.1``); see docs/features.md. Layers that do not read the input linearly (a
    nonlinearity before the first weight) are linearised.

    The rules (``stop``, ``confidence``, ``share``, ``keep``), ``estimator``, ``seed`` and what
    comes back are those of `terc`, but for a model without a rule: 99 % of the information is kept.
    (The test of the paper asks what can be told from so many noisy examples. Here the outputs are
    known, and their noise only says what matters: of a well trained model nothing would stay.)

    Parameters:
        X: real numbers (n_samples, ...), such as images (n_samples, channels, height, width), as
            the model takes them. About four examples for each feature are needed before the
            gaussian estimator stops overstating how well features replace each other.
        Y: labels or real numbers, as for `terc`, or an `nn.Module`, which is left as it was.
        units: ``"positions"`` (a pixel with all its channels), ``"channels"``, ``"features"``, or
            an array in the shape of an example with the unit of each feature, -1 for one that is
            always given.
        noise: of the first layers' outputs, for a model; None is the estimator's own.
        loss: whose Fisher information is the noise, as in `mipp.Options`.
        order: ``"greedy"`` here by default: neighbouring pixels stand in for each other in so many
            ways that re-scoring all of them after each removal pays.

    Raises:
        InputError: arguments that do not fit.
        CalibrationError: a model whose layers, or whose loss, do not see X.
    """
    if isinstance(X, nn.Module):
        raise InputError(
            f"X is a {type(X).__name__}; expected examples, an array or a tensor. Give the model "
            "second: mipp.select_features(x, model)."
        )
    chosen = information.read(estimator)
    if isinstance(Y, nn.Module):
        examples = as_examples(Y, X)
        finest = chosen.noise if noise is None else noise
        if finest != "fisher" and (isinstance(finest, str) or not finest > 0):
            raise InputError(
                f"noise={finest!r}; expected 'fisher', or a positive number such as 0.1, the "
                "share of each output's variance that counts as noise."
            )
        told = targets(Y, examples, finest, loss, seed)
        shape = tuple(examples.shape[1:])
        view = replace(information.observations(examples.flatten(1), told), noise=1.0)
    else:
        if noise is not None:
            raise InputError("noise= is about the outputs of a model, and Y is not one.")
        values = X if isinstance(X, Tensor) else np.asarray(X)
        shape = tuple(values.shape[1:])
        view = information.observations(values.reshape(len(values), -1), Y)
    unit = units_of(shape, units)
    flat = torch.as_tensor(unit.flatten(), device=view.inputs.device)
    view = replace(view, unit=flat)
    otherwise = NEARLY_ALL if isinstance(Y, nn.Module) else CRITERION
    return _run(view, unit, chosen, order, (stop, confidence, share, keep), otherwise, seed)


def _run(
    view: information.Observations,
    unit: IntArray,
    estimator: "information.Estimator | str",
    order: str,
    rules: tuple[Any, Any, Any, Any],
    otherwise: selection.Stop,
    seed: int,
) -> FeatureSelection:
    n_units = int(unit.max()) + 1
    rule = read_rule(n_units, *rules)
    ordered = read_order(order)
    scorer = information.read(estimator).scorer([view], n_units, seed)
    return eliminate(scorer, ordered, rule, unit, otherwise)
