"""Observations from plain arrays, and what of them the Gaussian estimator needs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import centred
from mipp.errors import InputError
from mipp.information.estimator import ConsumerView, Observations


def observations(X: Any, Y: Any, units: Sequence[int] | None = None) -> Observations:
    """Arrays as rows of one consumer, checked.

    Parameters:
        X: real numbers of shape (n_samples, n_features), or (n_samples,); array or tensor.
        Y: what is to be told from it: real numbers (n_samples,) or (n_samples, n_targets), or
            class indices of an integer or boolean type, shape (n_samples,), which may be any
            integers.
        units: which unit each feature belongs to, -1 for a feature that is always given; every
            feature is a unit of its own by default.

    Raises:
        InputError: shapes that do not fit, fewer than ten rows, or values that are not finite.
    """
    x = _tensor(X, "X")
    x = (x if x.dim() > 1 else x.unsqueeze(1)).to(torch.get_default_dtype())
    y = _tensor(Y, "Y")
    if x.dim() != 2 or y.dim() not in (1, 2):
        raise InputError(
            f"X has shape {tuple(x.shape)} and Y {tuple(y.shape)}; expected (n_samples, "
            "n_features), and (n_samples,) or (n_samples, n_targets)."
        )
    if len(x) != len(y) or len(x) < 10:
        raise InputError(
            f"X has {len(x)} rows and Y {len(y)}; expected the same number, ten at the least."
        )
    if y.is_floating_point():
        y = (y if y.dim() > 1 else y.unsqueeze(1)).to(x.dtype)
    else:
        if y.dim() != 1:
            raise InputError(
                f"Y has shape {tuple(y.shape)} and integer type; class indices have shape "
                "(n_samples,). Give real-valued targets as floating point."
            )
        y = torch.unique(y, return_inverse=True)[1]
    for name, values in (("X", x), ("Y", y)):
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise InputError(f"{name} has NaN or infinite values. Clean the data first.")
    unit = torch.arange(x.shape[1]) if units is None else torch.as_tensor(list(units))
    if len(unit) != x.shape[1]:
        raise InputError(f"units has {len(unit)} entries for {x.shape[1]} features.")
    return Observations(x, y, unit.to(x.device))


def _tensor(values: Any, name: str) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} has type {array.dtype}; expected numbers or class indices.")
    return torch.from_numpy(np.ascontiguousarray(array))


def real_targets(view: Observations) -> Float[Tensor, "rows m"]:
    """The targets as real numbers: class indices become indicators of all classes but the last."""
    if view.targets.is_floating_point():
        return view.targets.double()
    n_classes = int(view.targets.max()) + 1
    # the last indicator follows from the others
    hot = torch.nn.functional.one_hot(view.targets.long(), n_classes)[:, : n_classes - 1]
    return hot.double()


def second_moments(view: Observations) -> ConsumerView:
    """What the Gaussian estimator needs: moments of X, the regression of Y on it, and its noise.

    The noise is the view's own and what the regression leaves of the targets.
    """
    x, y = centred(view.inputs), centred(real_targets(view))
    covariance = x.T @ x / len(x)
    across = x.T @ y / len(x)
    ridged = covariance.clone()
    scale = covariance.diagonal()
    ridged.diagonal().add_(1e-9 * scale + torch.where(scale > 0, 0.0, 1.0))
    weight = torch.linalg.solve(ridged, across).T
    left = y.T @ y / len(y) - weight @ across
    left = (left + left.T) / 2
    # targets that follow exactly have infinite information without some noise
    floor = 1e-9 * y.square().mean(0) + torch.where(y.square().sum(0) > 0, 0.0, 1.0)
    left.diagonal().add_(floor + view.noise)
    return ConsumerView(covariance, weight, torch.linalg.inv(left), view.unit, view.uses)


def example_of(view: Observations) -> Int[Tensor, " rows"]:
    """Which example each row is from."""
    if view.example is not None:
        return view.example
    return torch.arange(len(view.inputs), device=view.inputs.device)
