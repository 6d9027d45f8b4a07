"""The record of a plan: what it says of each group, and how it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mipp import graph, methods, statistics, surgery
from mipp.planning.latency_budget import Timed
from mipp.problem import masks
from mipp.records import ChannelGraph, GroupSummary
from mipp.statistics.few_rows import few_rows, of_consumers
from mipp.surgery.outputs import tensors_in


def plan_record(
    model: nn.Module,
    traced: ChannelGraph,
    choice: methods.Choice,
    options: Mapping[str, Any],
    data: Sequence[statistics.Batch],
    latency: tuple[Timed, Timed, Mapping[str, Any]] | None = None,
) -> surgery.PlanRecord:
    """The plan as plain data.

    Args:
        model: that the plan is for.
        traced: its groups.
        choice: the units that stay.
        options: as plain values.
        data: calibration batches, on which what is not exact is measured.
        latency: before, after, and how it was measured, where it was.
    """
    keep = choice.keep
    chosen = masks(traced, keep)
    shaped = surgery.with_placeholders(traced, chosen)
    whole, pruned = graph.CostModel(traced), graph.CostModel(traced, chosen)
    summary = []
    for group in traced.groups:
        before = whole.group_cost(group.index)
        after = pruned.group_cost(group.index)
        total, lost = choice.nats[group.name]
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
    options = {**options, **choice.notes, **few_rows(of_consumers(traced), data)}
    before, after = whole.cost(), pruned.cost()
    if latency is not None:
        full, checked, how = latency
        before, after = replace(before, latency=full.ms), replace(after, latency=checked.ms)
        options = {**options, "latency": dict(how)}
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
        inexact=_inexactness(model, traced, keep, data),
        trails=choice.trails,
        unsure=surgery.unsure_sizes(traced, kept),
        uncounted=traced.uncounted,
    )


def _inexactness(
    model: nn.Module,
    traced: ChannelGraph,
    keep: Mapping[str, Sequence[int]],
    data: Sequence[statistics.Batch],
) -> dict[str, float]:
    """For each group that loses units which norms go across, the relative change of the outputs.

    It is ``|a - b| / |a|`` over all outputs on the calibration data. Nobody reads the removed units
    in either; in ``a`` norms see all units, in ``b``, as in the sliced model, those that stay.
    Nothing else is removed.
    """
    found = {}
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for index in sorted(traced.inexact):
        group = traced.groups[index]
        kept = torch.zeros(group.n_units, dtype=torch.bool)
        kept[list(keep[group.name])] = True
        if bool(kept.all()) or not bool(kept.any()):
            continue
        one = {index: kept.numpy()}
        whole = surgery.mask_model(model, traced, one, norms="all").eval()
        narrow = surgery.mask_model(model, traced, one).eval()
        moved = size = 0.0
        with torch.no_grad(), torch.random.fork_rng():
            for batch in data:
                here = batch.to(device)
                made = [
                    [t.double() for t in tensors_in(net(*here.args, **dict(here.kwargs)))]
                    for net in (whole, narrow)
                ]
                for first, second in zip(*made, strict=True):
                    # such as the minus infinity of what a mask hides
                    finite = first.isfinite() & second.isfinite()
                    moved += float((first - second)[finite].square().sum())
                    size += float(first[finite].square().sum())
        found[group.name] = (moved / size) ** 0.5 if size else 0.0
    return found
