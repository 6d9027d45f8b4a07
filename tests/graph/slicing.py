"""A naive slicer and a naive masker, written for the tests and independent of the package's."""

import copy

import numpy as np
import torch
from torch import nn

from mipp.graph import CostModel
from mipp.records import AxisKey
from mipp.tracing.attention import PrunedAttention
from mipp.tracing.size_attributes import put


def random_keep(graph, rng, share=0.6):
    """A random choice of units that leaves something of every dimension of every parameter."""
    model = CostModel(graph)
    for group in graph.groups:
        for unit in range(group.n_units):
            if rng.random() > share and not model.empties(group.index, unit):
                model.remove(group.index, unit)
    return model.keep


def sliced(model, graph, keep):
    """A copy of a model without the indices of the removed units, along every axis."""
    model = copy.deepcopy(model)
    owners = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for attribute, tensor in store.items():
                owners.setdefault(id(tensor), []).append((store, attribute))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        small = tensor.detach()
        for dim in range(tensor.dim()):
            axis = graph.axes.get(AxisKey(name, dim))
            if axis is not None:
                small = small.index_select(dim, torch.from_numpy(np.flatnonzero(axis.kept(keep))))
        small = nn.Parameter(small) if isinstance(tensor, nn.Parameter) else small
        for store, attribute in owners[id(tensor)]:
            store[attribute] = small
    for name, module in model.named_modules():
        rows = graph.axes.get(AxisKey(f"{name}.weight", 0))
        if rows is not None and getattr(module, "groups", 1) > 1:
            module.groups = int(rows.kept(keep).reshape(module.groups, -1).any(1).sum())
        _follow_weights(module)
    for size in graph.sizes:
        axis = graph.axes[size.axis]
        left = size.size * int(axis.kept(keep).sum()) // axis.size
        put(model.get_submodule(size.module), size.name, left)
    return model


def _follow_weights(module):
    if isinstance(module, nn.InstanceNorm2d):
        module.num_features = module.weight.shape[0]
    elif isinstance(module, nn.RNNBase):
        if module.proj_size:
            module.proj_size = module.weight_hr_l0.shape[0]
        else:
            module.hidden_size = module.weight_hh_l0.shape[1]
    elif isinstance(module, nn.MultiheadAttention):
        PrunedAttention.take_over(module)
    elif isinstance(module, nn.GroupNorm):
        module.num_groups = module.weight.shape[0] * module.num_groups // module.num_channels


def masked(model, graph, keep):
    """A copy of a model whose consumers read nothing from the removed units."""
    model = copy.deepcopy(model)
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for consumer in graph.consumers:
            weight = tensors[consumer.weight]
            gone = torch.from_numpy(~graph.axes[consumer.in_axis].kept(keep))
            weight.index_fill_(consumer.in_dim, gone.nonzero()[:, 0], 0.0)
    return model
