"""What one group sees of a consumer whose second moments were measured."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mipp.covariance import Covariance, submatrix
from mipp.information.estimator import ConsumerView
from mipp.records import AxisKey, ChannelGraph, Consumer, Group, IntArray, Keep
from mipp.tracing.calls import weight_matrix


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

    ``weight``: the consumer's, whole. ``covariance`` and ``fisher``: of all its inputs and outputs.
    """
    matrix = weight_matrix(consumer.kind, weight).to(covariance.dtype)
    in_axis = graph.axes[consumer.in_axis]
    per_input = matrix.shape[1] // in_axis.size
    mine = in_axis.group == group.index
    unit = np.repeat(np.where(mine, in_axis.unit, -1), per_input)
    columns = np.flatnonzero(np.repeat(mine | in_axis.kept(keep), per_input))
    device = matrix.device
    row = torch.as_tensor(_rows(graph, consumer, keep, matrix.shape[0]), device=device)
    column = torch.as_tensor(columns, device=device)
    return ConsumerView(
        covariance=submatrix(covariance, column),
        weight=matrix[row][:, column],
        fisher=None if fisher is None else fisher[row][:, row],
        unit=torch.as_tensor(unit[columns], device=device),
        uses=consumer.uses,
    )


def _rows(graph: ChannelGraph, consumer: Consumer, keep: Keep, n_rows: int) -> IntArray:
    axis = graph.axes.get(AxisKey(consumer.weight, consumer.out_dim))
    if axis is None:
        return np.arange(n_rows)
    return np.flatnonzero(np.repeat(axis.kept(keep), n_rows // axis.size))
