"""Which channels are tied together, which layers make and read them, and what they cost."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from mipp.errors import InputError
from mipp.graph.cost import CostModel, cost, group_cost
from mipp.graph.exported import export, unwrap
from mipp.graph.groups import build, solve, unprunable_whole_groups
from mipp.graph.propagate import propagate
from mipp.records import AxisKey, ChannelGraph
from mipp.tracing.forwards import pruned_forward
from mipp.tracing.size_attributes import counts_units

__all__ = [
    "CostModel",
    "cost",
    "counts_units",
    "group_cost",
    "pruned_forward",
    "trace",
    "unwrap",
]


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    head_dims: bool = False,
    residual: bool = False,
) -> ChannelGraph:
    """Finds the groups of units of a model from one example of its inputs.

    Args:
        model: Any module that `torch.export` accepts, in train or eval mode; it is left as it is.
            Names in the result are those of the module inside of DistributedDataParallel,
            DataParallel or `torch.compile`.
        args: Positional arguments of the model. Dimension 0 of the first tensor counts the
            examples; tensors of the same length are cut to two examples.
        kwargs: Keyword arguments of the model.
        head_dims: Inside of attention the units are not heads but the features that all heads have,
            so that feature 3 of each head is one unit.
        residual: What layer norms and RMS norms go across, such as the residual stream of a
            transformer, is a group of units, too. Removing one is not exact
            (`ChannelGraph.inexact`).

    Raises:
        InputError: For arguments that are not as described.
        GraphError: Where the model cannot be exported, or nothing in it can be pruned.
    """
    model = unwrap(model)
    if not isinstance(args, tuple):
        raise InputError(
            f"args is a {type(args).__name__}; a tuple of the model's inputs was expected. For one "
            "input write (x,)."
        )
    exported = export(model, args, kwargs or {})
    evenly: frozenset[AxisKey] = frozenset()
    while True:
        flow = propagate(exported, evenly, head_dims=head_dims, residual=residual)
        solution = solve(flow, exported.shapes)
        in_vain = unprunable_whole_groups(flow, solution)
        if not in_vain:
            return build(flow, solution, exported.shapes, exported.first_names)
        evenly |= in_vain
