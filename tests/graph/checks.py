"""What the tests ask of a traced model."""

import random

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from mipp.graph import cost, trace

from .slicing import masked, random_keep, sliced


def traced(model, *args, shares=(1.0, 0.7, 0.3), **kwargs):
    """The graph of a model, after a check that it is right for a few choices of units."""
    model = model.double().eval()
    args, kwargs = pytree.tree_map(_double, (args, kwargs))
    graph = trace(model, args, kwargs)
    check_slices(model, graph, random.Random(0), shares, *args, **kwargs)
    return graph


def _double(leaf):
    is_float = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    return leaf.double() if is_float else leaf


def check_slices(model, graph, rng, shares, *args, **kwargs):
    """Sliced = masked, and the cost told is that counted, for each share of units."""
    for share in shares:
        keep = random_keep(graph, rng, share)
        small = sliced(model, graph, keep)
        with torch.no_grad():
            made = pytree.tree_leaves(small(*args, **kwargs))
            wanted = pytree.tree_leaves(masked(model, graph, keep)(*args, **kwargs))
        assert len(made) == len(wanted)
        for have, want in zip(made, wanted, strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-9, atol=1e-9)
        now = cost(graph, keep)
        assert (now.macs, now.params) == counted(small, *args, **kwargs)
        assert now.units == sum(int(units.sum()) for units in keep.values())


def counted(model, *args, **kwargs):
    """MACs for one example and parameters, by PyTorch's own counter."""
    batch = len(pytree.tree_leaves((args, kwargs))[0])
    # with gradients: without them transformer layers take a path that is not counted
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(*args, **kwargs)
    params = sum(tensor.numel() for tensor in model.parameters())
    return counter.get_total_flops() / 2 / batch, params


def groups(graph):
    """Each group's name: number of units, producers, consumers."""
    return {
        group.name: (
            group.n_units,
            [f"{key.tensor}.{key.dim}" for key in group.producers],
            [graph.consumers[index].name for index in group.consumers],
        )
        for group in graph.groups
    }


def refusals(graph):
    """Each refused layer's name: number of channels and reasons."""
    listed = {}
    for item in graph.refused:
        listed.setdefault(item.name, []).append((item.n_units, item.reason))
    return listed


def units(graph, tensor, dim):
    """Units along one dimension as text: ``group.unit``, or ``-`` for what stays."""
    axis = next(axis for key, axis in graph.axes.items() if (key.tensor, key.dim) == (tensor, dim))
    return " ".join(
        "-" if group < 0 else f"{graph.groups[group].name}.{unit}"
        for group, unit in zip(axis.group, axis.unit, strict=True)
    )
