"""What a plan says of each group, and the record that is kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from mipp import graph, statistics, surgery
from mipp.planning.few_rows import few_rows, of_consumers
from mipp.planning.inexactness import shifts
from mipp.planning.latency_budget import Speed
from mipp.records import BoolArray, ChannelGraph, Curve, GroupSummary, Keep, Trail


def masks(traced: ChannelGraph, keep: Mapping[str, Sequence[int]]) -> Keep:
    """Kept unit indices by group name as masks by group index."""
    out = {}
    for group in traced.groups:
        if group.name in keep:
            mask = np.zeros(group.n_units, dtype=bool)
            mask[list(keep[group.name])] = True
            out[group.index] = mask
    return out


def count_nats(
    nats: dict[str, tuple[float, float]],
    name: str,
    curve: Curve,
    keep: BoolArray,
) -> None:
    """Adds one round's loss to the group's (nats before, nats lost so far)."""
    before, lost = nats.get(name, (curve.total, 0.0))
    nats[name] = (before, lost + float(curve.nats_lost[int((~keep).sum())]))


def made_record(
    model: nn.Module,
    traced: ChannelGraph,
    keep: Mapping[str, tuple[int, ...]],
    nats: Mapping[str, tuple[float, float]],
    options: Mapping[str, Any],
    trails: tuple[Trail, ...] = (),
    speed: Speed | None = None,
    data: Sequence[statistics.Batch] = (),
) -> surgery.PlanRecord:
    """The plan as plain data. ``keep``, ``nats``: by group name. ``speed``: that was measured.

    ``data``: calibration batches, on which it is measured what is not exact.
    """
    chosen = masks(traced, keep)
    shaped = surgery.with_placeholders(traced, chosen)
    whole, pruned = graph.CostModel(traced), graph.CostModel(traced, chosen)
    summary = []
    for group in traced.groups:
        before = whole.group_cost(group.index)
        after = pruned.group_cost(group.index)
        total, lost = nats[group.name]
        summary.append(
            GroupSummary(
                name=group.name,
                units_before=group.n_units,
                units_after=len(keep[group.name]),
                nats_before=total,
                # noisy estimates can sum to more than there was; NaN stays NaN
                nats_after=float(np.maximum(total - lost, 0)),
                macs_before=before.macs,
                macs_after=after.macs,
                params_before=before.params,
                params_after=after.params,
            )
        )
    options = {**options, **few_rows(of_consumers(traced), data)}
    before, after = whole.cost(), pruned.cost()
    if speed is not None and speed.checked is not None:
        before = replace(before, latency=speed.full.ms)
        after = replace(after, latency=speed.checked.ms)
        options = {**options, "latency": speed.describe()}
    kept = surgery.kept_indices(traced, shaped)
    return surgery.PlanRecord(
        keep=keep,
        axes=surgery.axis_keeps(traced, kept),
        refused=traced.refused,
        summary=tuple(summary),
        before=before,
        after=after,
        options=options,
        fingerprint=surgery.fingerprint(surgery.state_shapes(model)),
        mipp_version=surgery.installed_version(),
        zeroed=surgery.zeroed_axes(model, traced, chosen),
        sizes=surgery.attribute_keeps(traced, kept),
        scales=surgery.scale_keeps(traced, kept),
        inexact=shifts(model, traced, keep, data),
        trails=trails,
        unsure=surgery.unsure_sizes(traced, kept),
        uncounted=traced.uncounted,
    )
