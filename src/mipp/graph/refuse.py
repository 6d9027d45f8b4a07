"""Take groups out of a graph after the fact: what they held stays as it is."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mipp.records import KEPT, Axis, ChannelGraph, IntArray, Refusal


def without(graph: ChannelGraph, reasons: Mapping[int, str]) -> ChannelGraph:
    """The graph without the groups in ``reasons`` (group index -> why), which it lists as refused.

    The groups that are left are numbered anew, in the same order; consumers keep their numbers.
    """
    left = [group for group in graph.groups if group.index not in reasons]
    number = np.full(len(graph.groups) + 1, KEPT)  # the last entry is that of KEPT itself
    for new, group in enumerate(left):
        number[group.index] = new
    left_of = (_renumbered(axis, number) for axis in graph.axes.values())
    axes = {axis.key: axis for axis in left_of if axis is not None}
    norms = (_renumbered(axis, number) for axis in graph.norms)
    refused = [
        Refusal(group.name, group.n_units, reasons[group.index])
        for group in graph.groups
        if group.index in reasons
    ]
    return replace(
        graph,
        groups=tuple(replace(group, index=new) for new, group in enumerate(left)),
        axes=axes,
        norms=tuple(axis for axis in norms if axis is not None),
        refused=(*graph.refused, *refused),
    )


def _renumbered(axis: Axis, number: IntArray) -> Axis | None:
    owner = number[axis.group]
    if (owner == KEPT).all():
        return None
    return Axis(axis.key, owner, np.where(owner == KEPT, KEPT, axis.unit))
