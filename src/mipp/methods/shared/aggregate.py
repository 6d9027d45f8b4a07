"""From scores of single weights to scores of units, and scores of groups on one scale."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mipp.records import AxisKey, ChannelGraph, FloatArray, Group, Keep

Aggregation = Literal["l1", "mean", "l2", "signed", "sum"]
"""How the terms of a unit's weights become its score: ``l1`` sum of absolute values; ``mean`` the
same over their number (removed inputs not counted); ``l2`` root of the sum of squares; ``signed``
absolute value of the sum, the score of a gate on the unit; ``sum`` the sum itself."""

Normalisation = Literal["none", "mean", "z-score"]
"""How the scores of each group are scaled: ``none``; ``mean``, divided by the size of their mean
(Torch-Pruning's default); ``z-score``, minus their mean and divided by their standard deviation.
None changes the order within a group."""

_ROUNDING = 1e-12
"""A spread or a mean below this share of the largest score is rounding."""


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
    rows (channels that are flattened, heads) has all their weights: it is scored once, and its
    terms are summed before the absolute value or root of ``signed`` and ``l2`` is taken.

    Args:
        graph: The groups.
        keep: The units that are left; decides what ``mean`` counts.
        terms: Parameter name -> what each entry adds, in the parameter's shape.
        how: The aggregation.
        own: Whether biases, norm parameters and depthwise filters of a unit count, too, beside its
            incoming weights.
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
    """Masks of the entries that make a unit, each broadcastable to its parameter.

    Only units that are left count; parameters without any such entry are absent.
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


def normalised(
    scores: Mapping[int, FloatArray], keep: Keep, how: Normalisation
) -> dict[int, FloatArray]:
    """The scores, each group on the scale of its own units, by group index.

    Groups whose mean, or for the z-score deviation, is zero are not divided.

    Args:
        scores: Group index -> scores of its units.
        keep: Only units that are left count in means and deviations.
        how: The scale.
    """
    if how == "none":
        return dict(scores)
    scaled = {}
    for index, values in scores.items():
        left = values[keep[index]] if index in keep else values
        mean = left.mean() if len(left) else 0.0
        # the authors of the z-score divide by n - 1
        spread = abs(mean) if how == "mean" else left.std(ddof=1) if len(left) > 1 else 0.0
        shift = mean if how == "z-score" else 0.0
        rounding = _ROUNDING * np.abs(left).max(initial=0.0)
        scaled[index] = (values - shift) / (spread if spread > rounding else 1.0)
    return {index: np.asarray(values, dtype=np.float64) for index, values in scaled.items()}


def _transformed(values: Tensor, how: Aggregation) -> Tensor:
    if how in ("l1", "mean"):
        return values.abs()
    return values.square() if how == "l2" else values


def _per_row(graph: ChannelGraph, keep: Keep, key: AxisKey, shape: tuple[int, ...]) -> int:
    """Number of entries along one index of the dimension, without those of removed inputs."""
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
