"""Second moments of what the layers behind a group take in, for methods that look at those."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    consumers_of,
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
        variance: of these inputs.
        covariance: of these inputs, where it was measured.
    """

    consumer: Consumer
    columns: IntArray
    unit: Int[Tensor, " d"]
    weight: Float[Tensor, "m d"]
    mean: Float[Tensor, " d"]
    variance: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"] | None = None

    def moment(self, *, centred: bool) -> Float[Tensor, "d d"]:
        """The covariance, or E[X X']."""
        assert self.covariance is not None
        return self.covariance if centred else self.covariance + torch.outer(self.mean, self.mean)


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

    def measured(group: Group, seen: Mapping[int, Statistics]) -> None:
        score(group, [_reader(question, group, index, seen[index]) for index in group.consumers])

    if one_layer_at_a_time(model, graph, batches, memory, len(parts)):
        seed = _seed(question)
        collect_by_group(model, graph, batches, measured, loss=None, seed=seed, memory=memory)
        return
    for part in parts:
        found = _captured(question, batches, part)
        for group in part:
            measured(group, found)
        del found  # before the next pass


def with_variances(
    question: Question, batches: list[Batch]
) -> Iterator[tuple[Group, list[Reader]]]:
    """Each group and its consumers, whose inputs' variances are measured, and no covariances."""
    groups = question.graph.groups
    found = _captured(question, batches, groups, variances=True)
    for group in groups:
        yield group, [_reader(question, group, index, found[index]) for index in group.consumers]


def _seed(question: Question) -> int:
    return question.seed + question.round


def _captured(
    question: Question, batches: list[Batch], groups: Sequence[Group], *, variances: bool = False
) -> dict[int, Statistics]:
    consumers = question.graph.consumers
    wanted = {index: consumers[index] for index in consumers_of(groups)}
    return capture(
        question.model, wanted, batches, loss=None, seed=_seed(question), variances=variances
    )[0]


def _reader(question: Question, group: Group, index: int, seen: Statistics) -> Reader:
    consumer = question.graph.consumers[index]
    columns, unit = own_columns(question, group, consumer)
    chosen = torch.from_numpy(columns).to(seen.mean.device)
    weight = question.model.get_parameter(consumer.weight).detach()
    matrix = weight_matrix(consumer.kind, weight).to(seen.mean.dtype)[:, chosen]
    owner, mean = torch.from_numpy(unit).to(chosen.device), seen.mean.flatten()[chosen]
    covariance = seen.covariance
    if isinstance(covariance, Tensor) and covariance.dim() == 3:  # of each feature alone
        return Reader(consumer, columns, owner, matrix, mean, covariance.flatten()[chosen])
    found = dense(submatrix(covariance, chosen))
    return Reader(consumer, columns, owner, matrix, mean, found.diagonal(), found)


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
