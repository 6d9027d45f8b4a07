"""Which groups can really be pruned: those that can be measured and that no code depends on."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mipp import graph, processes, statistics, surgery
from mipp.errors import GraphError, InputError
from mipp.records import KEPT, Axis, ChannelGraph, IntArray, Refusal
from mipp.tracing.calls import Call, CallHooks, n_positions
from mipp.tracing.guards import measuring

N_TRACED = 4
"""Examples that a model is traced and tried with."""

ROUTED_EXAMPLES = 64
"""Fewest examples over which the positions of a routed layer are counted."""


def example(
    model: nn.Module, batches: Sequence[statistics.Batch]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for tracing: a few examples of the first batch, on the model's device.

    All of them where the batch is not divisible.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batch = batches[0].part(0, N_TRACED).to(device)
    return batch.args, dict(batch.kwargs)


def prunable_graph(
    model: nn.Module,
    data: Sequence[statistics.Batch],
    *,
    head_dims: bool = False,
    residual: bool = False,
) -> ChannelGraph:
    """The traced model without the groups whose removal would break the eager model.

    Args:
        model: to trace, on the first batch.
        data: calibration batches.
        head_dims: see `mipp.graph.trace`.
        residual: see `mipp.graph.trace`.

    Raises:
        GraphError: the model cannot be traced, or nothing in it can be pruned.
    """
    args, kwargs = example(model, data)
    with statistics.advised(model, data[0]):
        traced = graph.trace(model, args, kwargs, head_dims=head_dims, residual=residual)
    traced = surgery.with_attention_scale(model, traced, args, kwargs)
    traced = with_routes(model, traced, data)
    broken = _unmeasured(model, traced, args, kwargs)
    if len(broken) < len(traced.groups):
        for group in surgery.probe(model, traced, args, kwargs):
            broken.setdefault(group.index, group.reason)
    left = without(traced, broken) if broken else traced
    found = [f"group {g.name} of {g.n_units} units" for g in left.groups]
    processes.agree("the groups found", found)
    if not left.groups:
        reasons = "\n".join(f"  {r.name}: {r.reason}" for r in left.refused)
        raise GraphError(f"Nothing in {type(model).__name__} can be pruned:\n{reasons}")
    return surgery.with_unread_sizes(model, left, args, kwargs)


def with_routes(
    model: nn.Module, traced: ChannelGraph, data: Sequence[statistics.Batch]
) -> ChannelGraph:
    """The graph, with the number of positions of routed layers measured on some of the data."""
    routed = {term.name for term in traced.macs if term.routed}
    return _with_positions(traced, _positions(model, routed, data)) if routed else traced


def _with_positions(traced: ChannelGraph, positions: Mapping[str, float]) -> ChannelGraph:
    """The graph with costs and uses of routed layers for these positions per example, by layer.

    Layers that are absent get one.
    """
    macs = (
        replace(term, coefficient=term.coefficient * positions.get(term.name, 1.0))
        if term.routed
        else term
        for term in traced.macs
    )
    consumers = (
        # the number of a later call stands behind the name of the layer
        replace(consumer, uses=positions.get(consumer.name.partition("#")[0], 1.0))
        if consumer.routed
        else consumer
        for consumer in traced.consumers
    )
    return replace(traced, macs=tuple(macs), consumers=tuple(consumers))


def _positions(
    model: nn.Module, layers: Collection[str], data: Sequence[statistics.Batch]
) -> dict[str, float]:
    """Positions that each call of these layers gets per example, averaged over some examples."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    positions: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    seen = passes = 0

    def after(call: Call, output: Tensor) -> Tensor:
        name = call.name.removesuffix(".weight")
        if name in layers:
            positions[name] += n_positions(call)
            calls[name] += 1
        return output

    with torch.no_grad(), measuring(model):
        for number, batch in enumerate(data):
            with statistics.blaming(number), CallHooks(model, after=after):
                model(*(moved := batch.to(device)).args, **moved.kwargs)
            seen, passes = seen + len(batch), passes + 1
            if seen >= ROUTED_EXAMPLES:
                break
    names = sorted(layers)
    counted = torch.tensor(
        [*(positions[n] for n in names), *(calls[n] for n in names), seen, passes],
        dtype=torch.float64, device=device,
    )  # fmt: skip
    # every rank makes the same plan
    processes.all_reduce(f"the positions of {', '.join(names)}", counted)
    *both, seen_by_all, passes_of_all = counted.tolist()
    found = dict(zip(names, zip(both[: len(names)], both[len(names) :], strict=True), strict=True))
    # what none of the examples reaches is counted as if one position had
    return {
        name: max(n, 1.0) * passes_of_all / (max(n_calls, 1.0) * seen_by_all)
        for name, (n, n_calls) in found.items()
    }


def _unmeasured(
    model: nn.Module, traced: ChannelGraph, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[int, str]:
    """Groups read by a product outside of layer calls, where nothing can be measured."""
    seen = set()

    def after(call: Call, output: Tensor) -> Tensor:
        seen.add(call.key)
        return output

    with torch.no_grad(), measuring(model), CallHooks(model, after=after):
        model(*args, **kwargs)
    return {
        group.index: f"{consumer.name} multiplies by {consumer.weight} without a layer call; "
        "use torch.nn.functional.linear, or a layer"
        for group in traced.groups
        for consumer in (traced.consumers[c] for c in group.consumers)
        if (consumer.weight, consumer.call) not in seen
    }


def without(graph: ChannelGraph, reasons: Mapping[int, str]) -> ChannelGraph:
    """The graph without the groups in ``reasons`` (group index -> why), which it lists as refused.

    The groups that are left are renumbered, in the same order; consumers keep their numbers.
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


def protected(traced: ChannelGraph, patterns: Sequence[str]) -> set[int]:
    """Indices of the groups that a pattern names: by group, producer or a module above it."""
    return {
        group.index
        for group in traced.groups
        for name in (group.name, *(key.tensor for key in group.producers))
        if named(name, patterns)
    }


def check_patterns(traced: ChannelGraph, patterns: Sequence[str]) -> None:
    """Raises `InputError` for a pattern that names no group and nothing refused either."""
    for pattern in patterns:
        refused = any(named(refusal.name, [pattern]) for refusal in traced.refused)
        if not refused and not protected(traced, [pattern]):
            raise InputError(
                f"protect={pattern!r} names no group. Groups: "
                f"{', '.join(group.name for group in traced.groups)}."
            )


def check_parts(traced: ChannelGraph, patterns: Iterable[str] | None) -> None:
    """Raises `InputError` for parts of a budget that name no group, or one group twice."""
    owner: dict[int, str] = {}
    for pattern in patterns or ():
        mine = protected(traced, [pattern])
        if not mine:
            raise InputError(
                f"The budget of {pattern!r} names no group. Groups: "
                f"{', '.join(group.name for group in traced.groups)}."
            )
        for index in sorted(mine):
            if index in owner:
                raise InputError(
                    f"The budgets of {owner[index]!r} and {pattern!r} both name "
                    f"{traced.groups[index].name}. Give each group one."
                )
            owner[index] = pattern


def check_widths(
    traced: ChannelGraph, widths: Mapping[str, int] | None, patterns: Sequence[str], least: int
) -> None:
    """Raises `InputError` for widths that the groups cannot have.

    Args:
        traced: the groups.
        widths: number of units to keep, by group name.
        patterns: of groups that keep all units.
        least: number of units that every group keeps.
    """
    whole = protected(traced, patterns)
    groups = {group.name: group for group in traced.groups}
    for name, width in (widths or {}).items():
        group = groups.get(name)
        if group is None:
            raise InputError(
                f"widths= names {name!r}, which is no group. Groups: {', '.join(groups)}."
            )
        lowest = group.n_units if group.index in whole else min(least, group.n_units)
        if not lowest <= width <= group.n_units:
            raise InputError(
                f"widths= gives group {name} {width} units; expected {lowest} to {group.n_units} "
                "(see min_units and protect)."
            )


def named(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern names it, or a module above it."""
    return any(fnmatch(name, pattern) or name.startswith(pattern + ".") for pattern in patterns)
