"""Masked = sliced, as a user would get it, for models as people write them."""

import random

import torch

from mipp import statistics, surgery
from mipp.graph import cost
from mipp.planning import prunable_graph
from tests.graph.slicing import random_keep


def pruned(model, *args, **kwargs):
    """The graph of a model, and what is left at 70 % and at 30 %, checked against the mask."""
    batch = dict(kwargs) or (args[0] if len(args) == 1 else args)
    graph = prunable_graph(model, statistics.read_batches([batch], None))
    left = []
    for share in (0.7, 0.3):
        keep = random_keep(graph, random.Random(1), share)
        kept = surgery.kept_indices(graph, keep)
        sizes = surgery.attribute_keeps(graph, kept)
        small = surgery.slice_model(model, kept, graph.aliases, sizes)
        masked = surgery.mask_model(model, graph, keep)
        same = surgery.same_outputs(masked, small, args, kwargs, tolerance=1e-5)
        assert same.ok, same.message
        assert cost(graph, keep).params == sum(tensor.numel() for tensor in small.parameters())
        left.append(small)
    return graph, left


def reasons(graph):
    """All that is refused, as one text."""
    return "\n".join(f"{item.name}: {item.reason}" for item in graph.refused)


def seeded(make):
    """The same model each time."""
    torch.manual_seed(0)
    return make().double().eval()
