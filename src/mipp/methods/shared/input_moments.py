"""Second moments of what the layers behind a group take in, for methods that look at those."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import dense, submatrix
from mipp.methods.method import Question
from mipp.records import ChannelGraph, Consumer, Group, IntArray
from mipp.statistics import Batch, Statistics, capture
from mipp.tracing.calls import weight_matrix


@dataclass(frozen=True, eq=False)
class Reader:
    """One consumer of a group, and what it takes in: ``Y = W X`` at ``uses`` positions an example.

    Attributes:
        consumer: the layer.
        columns: those of the consumer's whole weight matrix that read units left in the group.
        unit: which unit each of these columns reads.
        weight: these columns of the weight matrix.
        mean: of these inputs.
        covariance: of these inputs.
    """

    consumer: Consumer
    columns: IntArray
    unit: Int[Tensor, " d"]
    weight: Float[Tensor, "m d"]
    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]

    @property
    def second_moment(self) -> Float[Tensor, "d d"]:
        """E[X X']."""
        return self.covariance + torch.outer(self.mean, self.mean)


def measured(question: Question, batches: list[Batch]) -> dict[int, Statistics]:
    """Mean and covariance of what every consumer takes in, by consumer index."""
    consumers = dict(enumerate(question.graph.consumers))
    seed = question.seed + question.round
    return capture(question.model, consumers, batches, loss=None, seed=seed)[0]


def readers(question: Question, group: Group, statistics: dict[int, Statistics]) -> list[Reader]:
    """The group's consumers, with their `measured` moments."""
    found = []
    for index in group.consumers:
        consumer, seen = question.graph.consumers[index], statistics[index]
        columns, unit = own_columns(question, group, consumer)
        chosen = torch.from_numpy(columns).to(seen.mean.device)
        weight = question.model.get_parameter(consumer.weight).detach()
        matrix = weight_matrix(consumer.kind, weight).to(seen.covariance.dtype)
        found.append(
            Reader(
                consumer, columns, torch.from_numpy(unit).to(chosen.device), matrix[:, chosen],
                seen.mean[chosen], dense(submatrix(seen.covariance, chosen)),
            )
        )  # fmt: skip
    return found


def own_columns(question: Question, group: Group, consumer: Consumer) -> tuple[IntArray, IntArray]:
    """Columns of the consumer's weights that read units left in the group, and their units."""
    graph: ChannelGraph = question.graph
    axis = graph.axes[consumer.in_axis]
    shape = graph.shapes[consumer.weight]
    cells = int(np.prod(shape)) // (shape[consumer.in_dim] * shape[consumer.out_dim])
    if consumer.kind == "conv_transpose":
        cells = 1  # of the inputs: kernel cells are rows of its matrix
    left = axis.kept(question.keep) & (axis.group == group.index)
    columns = np.flatnonzero(np.repeat(left, cells))
    return columns, np.repeat(axis.unit, cells)[columns]
