"""Records of plans, as plain data: what stays of each group or layer, and how that was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from mipp import graph, information, methods, selection, statistics, surgery
from mipp.errors import InputError
from mipp.options import Options, WeightOptions
from mipp.planning.model_outputs import function_name
from mipp.planning.runtimes import Timed
from mipp.problem import WeightProblem, masks
from mipp.records import ChannelGraph, GroupSummary
from mipp.statistics.few_rows import Sampled, few_rows, of_consumers
from mipp.surgery.mask_record import LayerSummary, MaskRecord, Nonzeros, packed
from mipp.surgery.outputs import tensors_in


def plan_record(
    model: nn.Module,
    traced: ChannelGraph,
    choice: methods.Choice,
    options: Mapping[str, Any],
    data: Sequence[statistics.Batch],
    latency: tuple[Timed, Timed, Mapping[str, Any]] | None = None,
) -> surgery.PlanRecord:
    """The plan of units as plain data.

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

    It is ``|a - b| / |a|`` over all outputs on the calibration data. No layer reads the removed
    units in either; in ``a`` norms see all units, in ``b``, as in the sliced model, only those that
    stay. Nothing else is removed.
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


def composed(
    model: nn.Module,
    traced: ChannelGraph,
    first: surgery.PlanRecord,
    later: surgery.PlanRecord,
    data: Sequence[statistics.Batch] = (),
) -> surgery.PlanRecord:
    """Combines the records of two rounds into one, in the numbering of the first model.

    Args:
        model: that the first plan is for.
        traced: its groups.
        first: of the first round.
        later: of the second round, for the model that the first leaves.
        data: calibration batches.

    Raises:
        InputError: the second record is for another model.
    """
    expected = _fingerprint_after(model, traced, first)
    if later.fingerprint != expected:
        raise InputError(
            f"The second plan is for a model with fingerprint {later.fingerprint[:12]}, and the "
            f"first one leaves one with {expected[:12]}. Make it for what plan.apply() of the "
            "first gives; that may be trained, but not changed in shape."
        )
    differ = InputError(
        "The two plans count the units of a group differently, so they cannot be combined into "
        "one. Apply them one after the other."
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
    """The fingerprint of the model that the plan leaves."""
    shapes = {name: list(shape) for name, shape in surgery.state_shapes(model).items()}
    for axis in record.axes:
        for name, shape in shapes.items():
            if traced.aliases.get(name, name) == axis.tensor:
                shape[axis.dim] = len(axis.kept)
    return surgery.fingerprint({name: tuple(shape) for name, shape in shapes.items()})


def weight_record(
    problem: WeightProblem, choice: methods.WeightChoice, options: Mapping[str, object]
) -> MaskRecord:
    """The plan of single weights as plain data; the options are given as plain values."""
    positions = problem.positions
    sampled = [
        Sampled(layer.module, positions[layer.name], layer.block[1])
        for layer in problem.layers
        if layer.name in positions
    ]
    words = {**options, "loss": choice.loss, **few_rows(sampled, problem.batches)}
    summary, masks = [], {}
    for layer in problem.layers:
        live = problem.live[layer.name]
        mask, (total, lost) = choice.masks[layer.name] & live, choice.nats[layer.name]
        masks[layer.name] = packed(mask.cpu().numpy())
        empty = ~layer.blocks(mask).any(2)
        summary.append(
            LayerSummary(
                name=layer.name,
                shape=layer.shape,
                weights_before=int(live.sum()),
                weights_after=int(mask.sum()),
                empty_rows=int(empty.sum()),
                nats_before=total,
                nats_after=float(np.maximum(total - lost, 0)),
            )
        )
    after = sum(row.weights_after for row in summary)
    return MaskRecord(
        granularity=problem.options.granularity,
        masks=masks,
        summary=tuple(summary),
        refused=problem.refused,
        before=Nonzeros(problem.n_live + problem.others, problem.n_live),
        after=Nonzeros(after + problem.others, after),
        options=words,
        fingerprint=surgery.fingerprint(surgery.state_shapes(problem.model)),
        mipp_version=surgery.installed_version(),
        trails=choice.trails,
    )


def to_dict(options: Options, budget: str) -> dict[str, Any]:
    """The options as plain JSON values, for the record of a plan."""
    refit = options.refit
    named: dict[str, Any] = {name: True for name, asked in options.wider.items() if asked}
    named |= {} if options.outputs is None else {"outputs": function_name(options.outputs)}
    named |= options.method.recorded()
    return named | {
        "method": options.method.name,
        "budget": budget,
        "estimator": options.estimator.name,
        "noise": options.estimator.noise,
        "estimator_settings": _settings(options.estimator),
        "target": options.target,
        "order": options.order,
        "stop": None if options.stop is None else repr(options.stop),
        "next_layer": options.next_layer,
        "allocation": options.allocation,
        "passes": options.passes,
        "rounds": options.rounds,
        "protect": list(options.protect),
        "min_units": options.min_units,
        "round_to": options.round_to,
        "samples": options.samples,
        "memory": options.memory,
        "refit": None if refit is None else asdict(refit),
        "seed": options.seed,
    }


def _settings(estimator: information.Estimator) -> dict[str, Any]:
    """The fields of the estimator's record, tuples as lists; of another object what it prints."""
    if not is_dataclass(estimator):
        return {"repr": repr(estimator)}
    found = asdict(estimator)
    return {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()}


def weights_to_dict(options: WeightOptions, budget: selection.Budget | None) -> dict[str, Any]:
    """The options as plain JSON values, for the record of a plan."""
    named: dict[str, Any] = options.method.recorded()
    named |= {} if options.outputs is None else {"outputs": function_name(options.outputs)}
    refit = options.refit
    return named | {
        "granularity": options.granularity,
        "method": options.method.name,
        "budget": None if budget is None else str(budget),
        "noise": options.noise,
        "ridge": options.ridge,
        "allocation": None if options.pattern is not None else options.spread,
        "protect": list(options.protect),
        "samples": options.samples,
        "memory": options.memory,
        "refit": asdict(refit) if isinstance(refit, surgery.Refit) else refit,
        "seed": options.seed,
    }
