"""The data of one consumer that an estimator is given: second moments, or rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import Covariance, centred, submatrix
from mipp.errors import InputError
from mipp.records import AxisKey, ChannelGraph, Consumer, Group, IntArray, Keep
from mipp.tracing.calls import weight_matrix

Reads = Literal["moments", "rows"]
"""What an estimator needs: second moments (`ConsumerView`) or rows (`Observations`)."""

RowShape = Literal["maps", "positions"]
"""What one row of a convolution is.

* ``maps``: an example; the features of a unit are its whole map.
* ``positions``: the patch under the kernel at one position; a unit's features are its cells.
"""


@dataclass(frozen=True, eq=False)
class ConsumerView:
    """Second moments of one consumer as one group sees it.

    Attributes:
        covariance: Of the input features ``X``, shape ``(d, d)``, as a matrix or a `Factor`.
        weight: Rows of the outputs that are kept, shape ``(m, d)``.
        fisher: Fisher information about those outputs at one position, ``(m, m)``, or None.
        unit: The group's unit that each feature belongs to, shape ``(d,)``; -1 for the features of
            other groups, which are taken as given.
        uses: Positions per example; nats are multiplied by it.
    """

    covariance: Covariance
    weight: Float[Tensor, "m d"]
    fisher: Float[Tensor, "m m"] | None
    unit: Int[Tensor, " d"]
    uses: float | int


@dataclass(frozen=True, eq=False)
class Observations:
    """Rows of one consumer as one group sees it: its inputs, and the targets to predict from them.

    Attributes:
        inputs: The features ``X``, shape ``(rows, d)``.
        targets: Real numbers, shape ``(rows, m)``, or class indices from 0, shape ``(rows,)``.
        unit: As in `ConsumerView`.
        uses: As in `ConsumerView`.
        noise: Variance of the independent Gaussian noise that real targets are seen through, the
            same in each of them; 0 where they are noisy already.
        example: The example that each row is from, shape ``(rows,)``. Rows of one example are never
            split between fitting and testing. None where each row is an example of its own.
    """

    inputs: Float[Tensor, "rows d"]
    targets: Float[Tensor, "rows m"] | Int[Tensor, " rows"]
    unit: Int[Tensor, " d"]
    uses: float | int = 1
    noise: float = 0.0
    example: Int[Tensor, " rows"] | None = None


View = ConsumerView | Observations


def consumer_view(
    graph: ChannelGraph,
    group: Group,
    consumer: Consumer,
    weight: Tensor,
    covariance: Covariance,
    fisher: Float[Tensor, "m m"] | None,
    keep: Keep,
) -> ConsumerView:
    """The consumer with all features of the group, and what is kept of other groups and outputs.

    Args:
        graph: The groups.
        group: The group whose units are scored.
        consumer: One of its consumers.
        weight: The consumer's whole weight.
        covariance: Of all its inputs.
        fisher: Fisher information about all its outputs, or None.
        keep: Units that are left of the other groups.
    """
    matrix = weight_matrix(consumer.kind, weight).to(covariance.dtype)
    columns, unit = features_seen(graph, group, consumer, matrix.shape[1], keep)
    device = matrix.device
    row = torch.as_tensor(_rows(graph, consumer, keep, matrix.shape[0]), device=device)
    column = torch.as_tensor(columns, device=device)
    return ConsumerView(
        covariance=submatrix(covariance, column),
        weight=matrix[row][:, column],
        fisher=None if fisher is None else fisher[row][:, row],
        unit=torch.as_tensor(unit, device=device),
        uses=consumer.uses,
    )


def features_seen(
    graph: ChannelGraph, group: Group, consumer: Consumer, n_features: int, keep: Keep
) -> tuple[IntArray, IntArray]:
    """Features of the group, and those kept of other groups; and the unit of each, -1 for others.

    Args:
        graph: The groups.
        group: The group whose units are scored.
        consumer: One of its consumers.
        n_features: Number of all its inputs.
        keep: Units that are left of the other groups.
    """
    in_axis = graph.axes[consumer.in_axis]
    per_input = n_features // in_axis.size
    mine = in_axis.group == group.index
    unit = np.repeat(np.where(mine, in_axis.unit, -1), per_input)
    columns = np.flatnonzero(np.repeat(mine | in_axis.kept(keep), per_input))
    return columns, unit[columns]


def _rows(graph: ChannelGraph, consumer: Consumer, keep: Keep, n_rows: int) -> IntArray:
    axis = graph.axes.get(AxisKey(consumer.weight, consumer.out_dim))
    if axis is None:
        return np.arange(n_rows)
    return np.flatnonzero(np.repeat(axis.kept(keep), n_rows // axis.size))


def observations(X: Any, Y: Any, units: Sequence[int] | None = None) -> Observations:
    """Arrays as rows of one consumer, checked.

    Args:
        X: Real numbers of shape ``(n_samples, n_features)`` or ``(n_samples,)``; array or tensor.
        Y: The targets: real numbers of shape ``(n_samples,)`` or ``(n_samples, n_targets)``, or
            class indices of an integer or boolean type, shape ``(n_samples,)``, which may be any
            integers.
        units: The unit that each feature belongs to, -1 for a feature that is always given. By
            default every feature is a unit of its own.

    Raises:
        InputError: Shapes do not fit, there are fewer than ten rows, or values are not finite.
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
            f"X has {len(x)} rows and Y {len(y)}; expected the same number, at least ten."
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
    """Moments of X, the regression of Y on it, and its noise, from rows.

    The noise is the view's own and the residual of the regression.
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
    """The example that each row is from."""
    if view.example is not None:
        return view.example
    return torch.arange(len(view.inputs), device=view.inputs.device)


def check_noise(noise: float | str) -> None:
    """Raises `InputError` unless the noise is ``"fisher"`` or a positive finite number."""
    if noise != "fisher" and (isinstance(noise, str) or not 0 < noise < float("inf")):
        raise InputError(
            f"noise={noise!r}; expected 'fisher' or a positive number such as 0.1, the share of "
            "each output's variance that counts as noise."
        )
