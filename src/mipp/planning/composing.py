"""Plans of several rounds as one, in the numbering of the first model."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from mipp import methods, statistics, surgery
from mipp.errors import InputError
from mipp.planning.plan_record import plan_record
from mipp.records import ChannelGraph


def composed(
    model: nn.Module,
    traced: ChannelGraph,
    first: surgery.PlanRecord,
    later: surgery.PlanRecord,
    data: Sequence[statistics.Batch] = (),
) -> surgery.PlanRecord:
    """What both records keep of ``model``, which ``first`` is for; ``data``: calibration batches.

    Raises `InputError` unless ``later`` is for what ``first`` leaves.
    """
    expected = _fingerprint_after(model, traced, first)
    if later.fingerprint != expected:
        raise InputError(
            f"The second plan is for a model with fingerprint {later.fingerprint[:12]}, and the "
            f"first one leaves one with {expected[:12]}. Make it for what plan.apply() of the "
            "first gives; that may be trained, but not changed in shape."
        )
    differ = InputError(
        "The two plans count the units of a group differently, so that they cannot be told as one. "
        "Apply them one after the other."
    )
    keep = dict(first.keep)
    # a group that is down to one unit is none of the small model's any more
    sizes = {row.name: row.units_before for row in later.summary}
    for name, units in later.keep.items():
        if len(first.keep.get(name, ())) != sizes[name]:
            raise differ
        keep[name] = tuple(np.asarray(first.keep[name])[list(units)].tolist())
    options = {**later.options, "after": dict(first.options)}
    choice = methods.Choice(keep, dict.fromkeys(keep, methods.NOT_MEASURED))
    record = plan_record(model, traced, choice, options, data)
    own = first.kept()
    for axis in later.axes:
        earlier = own.get(axis.key)
        own[axis.key] = axis.indices if earlier is None else earlier[axis.indices]
    same = {key: tuple(indices.tolist()) for key, indices in own.items()}
    if same != {axis.key: axis.kept for axis in record.axes}:
        raise differ
    return record


def _fingerprint_after(model: nn.Module, traced: ChannelGraph, record: surgery.PlanRecord) -> str:
    """Of the model that the plan leaves."""
    shapes = {name: list(shape) for name, shape in surgery.state_shapes(model).items()}
    for axis in record.axes:
        for name, shape in shapes.items():
            if traced.aliases.get(name, name) == axis.tensor:
                shape[axis.dim] = len(axis.kept)
    return surgery.fingerprint({name: tuple(shape) for name, shape in shapes.items()})
