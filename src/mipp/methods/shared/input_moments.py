"""Second moments of what the layers behind a group take in, for methods that look at those."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp import processes
from mipp.covariance import dense, submatrix
from mipp.methods.method import Question
from mipp.methods.shared.by_group import (
    collect_by_group,
    measured_bytes,
    one_layer_at_a_time,
    passes,
)
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


def each_group(
    question: Question, batches: list[Batch], score: Callable[[Group, list[Reader]], None]
) -> None:
    """Calls ``score`` with each group and its consumers, measured on the batches.

    Groups come in any order, and measurements of no more of them at a time than fit into the
    question's memory.
    """
    model, graph, memory = question.model, question.graph, question.memory
    n_examples = processes.total("the number of examples", sum(len(batch) for batch in batches))
    parts = passes(
        graph, lambda index: measured_bytes(graph, index, n_examples, fisher=False), memory
    )
    seed = question.seed + question.round

    def measured(group: Group, seen: Mapping[int, Statistics]) -> None:
        score(group, [_reader(question, group, index, seen[index]) for index in group.consumers])

    if one_layer_at_a_time(model, graph, batches, memory, len(parts)):
        collect_by_group(model, graph, batches, measured, loss=None, seed=seed, memory=memory)
        return
    for part in parts:
        wanted = {index: graph.consumers[index] for group in part for index in group.consumers}
        found = capture(model, wanted, batches, loss=None, seed=seed)[0]
        for group in part:
            measured(group, found)


def _reader(question: Question, group: Group, index: int, seen: Statistics) -> Reader:
    consumer = question.graph.consumers[index]
    columns, unit = own_columns(question, group, consumer)
    chosen = torch.from_numpy(columns).to(seen.mean.device)
    weight = question.model.get_parameter(consumer.weight).detach()
    matrix = weight_matrix(consumer.kind, weight).to(seen.covariance.dtype)
    return Reader(
        consumer, columns, torch.from_numpy(unit).to(chosen.device), matrix[:, chosen],
        seen.mean[chosen], dense(submatrix(seen.covariance, chosen)),
    )  # fmt: skip


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
