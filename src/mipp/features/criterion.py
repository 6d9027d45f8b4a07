"""TERC on arrays, and the selection of a model's input features by it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mipp import information, selection
from mipp.checks import checked
from mipp.errors import InputError
from mipp.features.elimination import (
    CRITERION,
    NEARLY_ALL,
    FeatureSelection,
    eliminate,
    read_order,
    read_rule,
)
from mipp.features.model_input import as_examples, targets
from mipp.records import KEPT, IntArray
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
    """Select the units of X that transfer entropy to Y: the transfer entropy redundancy criterion.

    A unit i is kept only if I(X; Y) - I(X without i; Y) > 0. Units are tested one at a time, and
    the set of survivors is updated after every removal. The estimate of the difference depends on
    ``estimator``: ``"gaussian"`` finds only linear relations.

    Without a rule, units are kept that pass the test of the paper with 95 % confidence
    (`mipp.Confidence`), and the elimination then continues to the end, least nats first, so that
    ``order`` lists every unit. With a rule it ends where the rule does. Give at most one of
    ``stop``, ``confidence``, ``share`` and ``keep``. The result may be empty, if no unit can be
    shown to transfer entropy.

    Args:
        X: real numbers of shape (n_samples, n_features), array or tensor.
        Y: real numbers (n_samples,) or (n_samples, n_targets), or class indices of an integer or
            boolean type, shape (n_samples,).
        units: the unit of each feature, a sequence of n_features whole numbers from 0; -1 for a
            feature that is always given. By default every feature is its own unit.
        estimator: a name of `mipp.information.names` or a record such as ``mipp.Gaussian()``.
        order: ``"ordered"`` tests each unit once, least informative on its own first, as the paper
            does: of two sets with the same information, the larger, weaker one is removed.
            ``"greedy"`` tests the unit with the least loss now, and ends with the first one kept.
        stop: a rule as a record, such as ``mipp.Share(0.9)``.
        confidence: level of the test of the paper, 0.5 to below 1.
        share: of the information to keep, above 0 to 1.
        keep: number of units to keep, or a share of them.
        seed: of all random draws.

    Raises:
        InputError: for arguments that do not fit, or fewer than ten rows.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((500, 3))
        >>> terc(X, X[:, 0] + X[:, 2]).kept.tolist()
        [0, 2]

    References:
        Westphal, Hailes and Musolesi, "Information-Theoretic State Variable Selection for
        Reinforcement Learning", arXiv 2401.11512 (algorithm 1, the criterion), and "Mutual
        Information Preserving Neural Network Pruning", arXiv 2411.00147 (algorithms 1 and 2, the
        ordering).
    """
    found = information.observations(X, Y)
    unit = _units_of(found.inputs.shape[1:], "features" if units is None else units)
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
    """Select the input features that transfer entropy to Y, or to the first layers of a model.

    With a model the target is the output of all layers that read the input, at all positions of
    their maps, observed through noise: which pixels the (pruned) first layer needs. Outputs are
    distinguished as finely as the loss depends on them (``noise="fisher"``), or down to a share of
    each output's variance (``noise=0.1``); see docs/research/features.md. Layers that do not read
    the input linearly (a nonlinearity before the first weight) are linearised.

    The default rule for a model is to keep 99 % of the information, not the test of `terc`. (That
    test asks what can be inferred from this many noisy examples. Here the outputs are known, and
    their noise only says what matters: of a well trained model nothing would be kept.)

    Args:
        X: real numbers (n_samples, ...), such as images (n_samples, channels, height, width), as
            the model takes them. About four examples for each feature are needed before the
            gaussian estimator stops overstating how well features replace each other.
        Y: labels or real numbers, as for `terc`, or an `nn.Module`, which is left as it was.
        units: ``"positions"`` (a pixel with all its channels), ``"channels"``, ``"features"``, or
            an array in the shape of an example with the unit of each feature, -1 for a feature that
            is always given.
        estimator: as for `terc`.
        noise: of the first layers' outputs, for a model; None is the estimator's own.
        loss: whose Fisher information is the noise, as in `mipp.Options`.
        order: as for `terc`. The default is ``"greedy"``, because neighbouring pixels replace each
            other in so many ways that scoring all of them again after each removal pays.
        stop: as for `terc`.
        confidence: as for `terc`.
        share: as for `terc`.
        keep: as for `terc`.
        seed: of all random draws.

    Raises:
        InputError: for arguments that do not fit.
        CalibrationError: if the model's layers, or its loss, do not depend on X.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> images = rng.standard_normal((500, 1, 2, 2))
        >>> select_features(images, images[:, 0, 1, 1], keep=1).mask[0].tolist()
        [[False, False], [False, True]]
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
        outputs = targets(Y, examples, finest, loss, seed)
        shape = tuple(examples.shape[1:])
        view = replace(information.observations(examples.flatten(1), outputs), noise=1.0)
    else:
        if noise is not None:
            raise InputError("noise= is about the outputs of a model, and Y is not one.")
        values = X if isinstance(X, Tensor) else np.asarray(X)
        shape = tuple(values.shape[1:])
        view = information.observations(values.reshape(len(values), -1), Y)
    unit = _units_of(shape, units)
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


def _units_of(shape: Sequence[int], units: Any) -> IntArray:
    """The unit of each feature, in the shape of one example.

    With one dimension ``"positions"``, ``"channels"`` and ``"features"`` are the same; with more,
    dimension 0 of the example is the channels.

    Raises:
        InputError: for an unknown name, or an array that does not fit.
    """
    size = tuple(shape)
    if isinstance(units, str):
        if units not in ("positions", "channels", "features"):
            raise InputError(
                f"units={units!r}; expected 'positions', 'channels', 'features' or an array of "
                f"shape {size}."
            )
        if len(size) < 2 or units == "features":
            return np.arange(int(np.prod(size)), dtype=np.int64).reshape(size)
        if units == "channels":
            return np.broadcast_to(np.arange(size[0]).reshape(-1, *[1] * (len(size) - 1)), size)
        return np.broadcast_to(np.arange(int(np.prod(size[1:]))).reshape(1, *size[1:]), size)
    unit = np.asarray(units)
    if unit.shape != size or unit.dtype.kind not in "iu":
        raise InputError(
            f"units has shape {unit.shape} and type {unit.dtype}; expected whole numbers of shape "
            f"{size}, one for each feature."
        )
    found = np.unique(unit[unit != KEPT])
    if len(found) == 0 or not np.array_equal(found, np.arange(len(found))):
        raise InputError(
            f"units names {found.tolist()[:10]}; expected every number from 0 to the last one, and "
            "-1 for features that are always given."
        )
    return unit.astype(np.int64)
