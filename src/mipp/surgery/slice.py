"""Slicing: a copy of a model without the weights of removed units."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mipp.records import AxisKey, ChannelGraph, IntArray
from mipp.surgery.attributes import fit_attributes
from mipp.surgery.keeps import AttributeKeep, ScaleKeep, attribute_keeps, scale_keeps
from mipp.surgery.kept_record import check_sizes, composed, composed_sizes, write_record
from mipp.surgery.mask import zero_placeholders
from mipp.surgery.narrow_norms import drop_narrow_norms
from mipp.surgery.record import PlanRecord
from mipp.surgery.tensors import (
    NO_ALIASES,
    check_fingerprint,
    cuts_by_tensor,
    deep_copy,
    named_tensors,
    own_tensors,
    take,
    tensor_of,
)
from mipp.tracing.attention import PrunedAttention
from mipp.tracing.forwards import use_registered_forward
from mipp.tracing.size_attributes import put

Module = TypeVar("Module", bound=nn.Module)


def slice_model(
    model: Module,
    kept: Mapping[AxisKey, IntArray],
    aliases: Mapping[str, str] = NO_ALIASES,
    sizes: Sequence[AttributeKeep] = (),
    scales: Sequence[ScaleKeep] = (),
) -> Module:
    """A smaller copy of the model that holds only the kept indices of every dimension.

    Number types, devices, ``requires_grad``, train / eval modes, sharing of parameters and hooks
    are those of the model; gradients are dropped, since they belong to the step before. Attributes
    of layers (``in_channels``, ``groups``, ``num_features``, ...) follow the new shapes. Hooks are
    copied as `copy.deepcopy` does: a function is the same function, a bound method is bound to a
    copy. The model itself is not changed, and its full-size weights are never copied.

    Args:
        model: The model, which stays as it is.
        kept: Rising indices that stay, shape ``(n_kept,)``, for each dimension that loses
            something.
        aliases: Other names of a tensor -> the name that ``kept`` has it under. Names of one and
            the same tensor are found without this.
        sizes: Integer attributes of modules (``num_heads``, ...) that get smaller with the weights.
        scales: Rows that are multiplied by a number, after slicing.

    Raises:
        InputError: A dimension or an attribute that the model does not have, or indices or numbers
            that do not fit it.
        SurgeryError: The model cannot be copied, or its grouped layers would be left uneven.
    """
    cuts = cuts_by_tensor(model, kept, aliases)
    tensors = {id(tensor): tensor for tensor in named_tensors(model).values()}
    small = deep_copy(model, {key: _sliced(tensors[key], dims) for key, dims in cuts.items()})
    for (name, full_layer), layer in zip(model.named_modules(), small.modules(), strict=True):
        own = own_tensors(full_layer)
        if any(id(tensor) in cuts for tensor in own.values()):
            weight = own.get("weight")
            fit_attributes(name, layer, None if weight is None else cuts.get(id(weight), {}).get(0))
        if any(id(tensor) in cuts for tensor in full_layer.parameters()):
            use_registered_forward(layer)
    drop_narrow_norms(small)
    _set_sizes(small, sizes)
    _scale(small, kept, scales)
    write_record(small, composed(model, kept), composed_sizes(model, sizes))
    return small


def slice_graph(model: Module, graph: ChannelGraph, kept: Mapping[AxisKey, IntArray]) -> Module:
    """`slice_model` with all that the graph says has to follow: attributes and scales."""
    sizes, scales = attribute_keeps(graph, kept), scale_keeps(graph, kept)
    return slice_model(model, kept, graph.aliases, sizes, scales)


def apply_plan(model: Module, record: PlanRecord) -> Module:
    """The model with the units removed that the plan removes; the model itself is not changed.

    Raises:
        InputError: The plan was made for a model of another structure.
    """
    check_fingerprint(model, record.fingerprint, ", before anything was removed")
    small = slice_model(model, record.kept(), sizes=record.sizes, scales=record.scales)
    zero_placeholders(small, record)
    return small


def _sliced(tensor: Tensor, cuts: Mapping[int, IntArray]) -> Tensor:
    values = take(tensor.detach(), cuts)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values.requires_grad_(tensor.requires_grad)


def _set_sizes(small: nn.Module, sizes: Sequence[AttributeKeep]) -> None:
    check_sizes(small, sizes, sliced=False)
    for size in sizes:
        put(small.get_submodule(size.module), size.name, size.after)
    for module in small.modules():
        if isinstance(module, PrunedAttention):
            module.head_dim = module.out_proj.in_features // module.num_heads
        # its one-piece kernel would be given what cut layers cannot take
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(part, PrunedAttention) for part in module.modules()
        ):
            module.use_nested_tensor = False


def _scale(small: nn.Module, kept: Mapping[AxisKey, IntArray], scales: Sequence[ScaleKeep]) -> None:
    tensors = named_tensors(small)
    for scale in scales:
        key, full = AxisKey(scale.tensor, scale.dim), np.arange(scale.size)
        rows = np.flatnonzero(np.isin(kept.get(key, full), scale.indices))
        with torch.no_grad():
            tensor = tensor_of(tensors, key)
            chosen = torch.as_tensor(rows, device=tensor.device)
            scaled = tensor.index_select(scale.dim, chosen) * scale.factor
            tensor.index_copy_(scale.dim, chosen, scaled)
