"""How far outputs move because norms see fewer units: what is not exact about a plan."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from mipp import statistics, surgery
from mipp.records import ChannelGraph
from mipp.surgery.outputs import tensors_in


def shifts(
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
