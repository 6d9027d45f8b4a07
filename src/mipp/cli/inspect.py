"""``mipp inspect``: what can be pruned in a model, what cannot, and why."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mipp.cli import arguments as arg
from mipp.cli.output import open_output, readable_errors

if TYPE_CHECKING:
    from mipp.records import ChannelGraph, Cost


def inspect(
    model: arg.ModelName,
    width: arg.Width = None,
    classes: arg.Classes = None,
    weights: arg.Weights = None,
    pretrained: arg.Pretrained = False,
    device: arg.Device = "cpu",
    data: arg.ShapeData = None,
    data_root: arg.DataRoot = None,
    shape: arg.InputShape = None,
    tokenizer: arg.Tokenizer = None,
    head_dims: arg.HeadDims = False,
    residual: arg.Residual = False,
    seed: arg.Seed = 0,
    json: arg.Json = False,
    debug: arg.Debug = False,
) -> None:
    """List the groups of units that can be pruned, outputs first, and what is refused and why."""
    import torch

    from mipp import graph, planning
    from mipp.cli import text_tables
    from mipp.cli.datasets import DataOptions, find_source
    from mipp.cli.model_loading import Wanted, check_shape, check_weights, examples, open_model
    from mipp.cli.model_names import find_network

    with readable_errors(debug) as guard:
        output = open_output(json)
        torch.manual_seed(seed)
        network = find_network(model, pretrained=pretrained)
        check_weights(weights)
        reading = DataOptions(data_root, tokenizer, shape, seed, network.task)
        source = None if data is None else find_source(data, network, reading)
        batches = examples(network, source, shape, seed)
        guard.arguments_read()
        wanted = Wanted(width, classes, weights, device, seed)
        with output.busy("tracing"):
            opened = open_model(network, wanted, source)
            check_shape(network, opened, batches, shape)
            few = planning.calibration(opened, batches, 4)
            traced = planning.prunable_graph(opened, few, head_dims=head_dims, residual=residual)
        costs = [graph.group_cost(traced, None, group.index) for group in traced.groups]
        full = graph.cost(traced)
        output.show(text_tables.groups_of(traced, costs))
        if traced.refused:
            output.show(text_tables.refusals(traced.refused))
        for op in traced.uncounted:
            output.say(f"not counted in MACs: {op}")
        output.say(
            f"{model}: {text_tables.exact(full.macs)} MACs, "
            f"{text_tables.exact(full.params)} parameters, "
            f"{text_tables.exact(full.units)} units in {len(traced.groups)} groups"
        )
        output.result(_described(traced, costs, full) | {"model": model, "seed": seed})


def _described(traced: "ChannelGraph", costs: "Sequence[Cost]", full: "Cost") -> dict[str, Any]:
    from mipp.cli.text_tables import producers

    groups = [
        {
            "name": group.name,
            "units": group.n_units,
            "producers": producers(group),
            "consumers": [traced.consumers[index].name for index in group.consumers],
            "exact": group.index not in traced.inexact,
            "macs": cost.macs,
            "params": cost.params,
        }
        for group, cost in zip(traced.groups, costs, strict=True)
    ]
    refused = [{"name": r.name, "units": r.n_units, "reason": r.reason} for r in traced.refused]
    return {
        "macs": full.macs,
        "params": full.params,
        "units": full.units,
        "groups": groups,
        "refused": refused,
        "uncounted": list(traced.uncounted),
    }
