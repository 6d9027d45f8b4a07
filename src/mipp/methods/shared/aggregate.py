"""From scores of single weights to scores of units: one function for all methods."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mipp.records import AxisKey, ChannelGraph, FloatArray, Group, Keep

Aggregation = Literal["l1", "mean", "l2", "signed", "sum"]
"""How the terms of a unit's weights become its score: ``l1`` sum of absolute values; ``mean`` the
same over their number (removed inputs not counted); ``l2`` root of the sum of squares; ``signed``
absolute value of the sum, which is what a gate on the unit would get; ``sum`` the sum itself."""


def aggregate(
    graph: ChannelGraph,
    keep: Keep,
    terms: Mapping[str, Tensor],
    how: Aggregation = "l1",
    *,
    own: bool = False,
) -> dict[int, FloatArray]:
    """Score of each unit, shape ``(n_units,)``, by group index.

    A unit of a tied group (channels joined by a residual add, say) or of one that takes several
    rows (channels that are flattened, heads) has all their weights: it is scored once, and what
    belongs to it is summed before the absolute value or root of ``signed`` and ``l2`` is taken.

    Parameters
    ----------
    keep: the units that are left; decides what ``mean`` counts.
    terms: parameter name -> what each entry adds, in the parameter's shape.
    own: also biases, norm parameters and depthwise filters of a unit, beside incoming weights.
    """
    scores = {}
    for group in graph.groups:
        total, count = np.zeros(group.n_units), np.zeros(group.n_units)
        for key in unit_axes(graph, group, own=own):
            if key.tensor not in terms:  # a running mean
                continue
            rows = _transformed(terms[key.tensor].detach().double(), how)
            sums = rows.movedim(key.dim, 0).reshape(rows.shape[key.dim], -1).sum(1).cpu().numpy()
            axis = graph.axes[key]
            mine = axis.group == group.index
            np.add.at(total, axis.unit[mine], sums[mine])
            np.add.at(count, axis.unit[mine], _per_row(graph, keep, key, tuple(rows.shape)))
        scores[group.index] = _finished(total, count, how)
    return scores


def unit_axes(graph: ChannelGraph, group: Group, *, own: bool = False) -> Iterator[AxisKey]:
    """The dimensions along which the weights of a group's units lie, see `aggregate`."""
    yield from group.producers
    if own:
        read = {consumer.in_axis for consumer in graph.consumers}
        for key, axis in graph.axes.items():
            if key not in read and key not in group.producers and (axis.group == group.index).any():
                yield key


def unit_entries(
    graph: ChannelGraph, keep: Keep, shapes: Mapping[str, torch.Size], *, own: bool = False
) -> dict[str, Tensor]:
    """Boolean masks, that can be broadcast to the parameters, of the entries that make a unit.

    Only units that are left count; parameters that hold none are absent.
    """
    masks: dict[str, Tensor] = {}
    for group in graph.groups:
        for key in unit_axes(graph, group, own=own):
            if key.tensor not in shapes:
                continue
            axis = graph.axes[key]
            along = torch.from_numpy(axis.kept(keep) & (axis.group == group.index))
            shape = [1] * len(shapes[key.tensor])
            shape[key.dim] = -1
            mask = along.view(shape)
            masks[key.tensor] = masks[key.tensor] | mask if key.tensor in masks else mask
    return masks


def _transformed(values: Tensor, how: Aggregation) -> Tensor:
    if how in ("l1", "mean"):
        return values.abs()
    return values.square() if how == "l2" else values


def _per_row(graph: ChannelGraph, keep: Keep, key: AxisKey, shape: tuple[int, ...]) -> int:
    """How many entries of one index of the dimension are not those of removed inputs."""
    count = 1
    for dim, size in enumerate(shape):
        axis = graph.axes.get(AxisKey(key.tensor, dim))
        if dim != key.dim:
            count *= size if axis is None else int(axis.kept(keep).sum())
    return count


def _finished(total: FloatArray, count: FloatArray, how: Aggregation) -> FloatArray:
    if how == "mean":
        return np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    if how == "l2":
        return np.sqrt(total)
    return np.abs(total) if how == "signed" else total
