"""Removing units from a model. This is the only module that changes weights, and on a copy."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mipp.checks import check_module
from mipp.errors import InputError, SurgeryError
from mipp.records import AxisKey, ChannelGraph, IntArray, Keep
from mipp.surgery.attributes import ZERO_IS_SAFE, fit_attributes
from mipp.surgery.narrow_norms import drop_narrow_norms, narrow_norms
from mipp.surgery.record import (
    AttributeKeep,
    AxisKeep,
    PlanRecord,
    ScaleKeep,
    attribute_keeps,
    check_keep,
    fingerprint,
    scale_keeps,
    with_placeholders,
)
from mipp.tracing.attention import PrunedAttention
from mipp.tracing.forwards import use_registered_forward
from mipp.tracing.guards import duplicate
from mipp.tracing.size_attributes import integers, put

NO_ALIASES: Mapping[str, str] = MappingProxyType({})
RECORD = "_mipp_keep"
"""Attribute of a sliced model that holds its `AxisKeep` records, for `mipp.save`."""
SIZES = "_mipp_sizes"
"""The same for its `AttributeKeep` records."""

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

    Parameters
    ----------
    kept: rising indices that stay, shape ``(n_kept,)``, for each dimension that loses something.
    aliases: other names of a tensor -> the name that ``kept`` has it under. Names of one and the
        same tensor are found without this.
    sizes: integer attributes of modules (``num_heads``, ...) that get smaller with the weights.
    scales: rows that are multiplied by a number, after slicing.

    Raises
    ------
    InputError: a dimension or an attribute that the model does not have, or indices or numbers that
        do not fit it.
    SurgeryError: the model cannot be copied, or its grouped layers would be left uneven.
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
    write_record(small, _composed(model, kept), _composed_sizes(model, sizes))
    return small


def slice_graph(model: Module, graph: ChannelGraph, kept: Mapping[AxisKey, IntArray]) -> Module:
    """`slice_model` with all that the graph says has to follow: attributes and scales."""
    sizes, scales = attribute_keeps(graph, kept), scale_keeps(graph, kept)
    return slice_model(model, kept, graph.aliases, sizes, scales)


def mask_model(
    model: Module, graph: ChannelGraph, keep: Keep, *, norms: Literal["kept", "all"] = "kept"
) -> Module:
    """A copy of the model, of the same size, that computes what the sliced model computes.

    The consumers' weights that read removed units are set to zero, which alone is exact; so are
    the weights, biases and norm parameters that make them. Buffers (running statistics) stay, and
    so do parameters of layers not known here, where a zero might be divided by. ``keep`` may leave
    a group without any unit.

    A norm across units that go sees in the sliced model what is ``"kept"``, and so it does here, by
    a hook. With ``norms="all"`` it sees all units as in the model itself, and what it makes of the
    removed ones is read by nobody: this is what removing them would be if that were exact.

    Raises `InputError` if ``keep`` does not fit the graph or the graph does not fit the model.
    """
    check_keep(graph, keep, may_empty=True)
    masked = deep_copy(model, {})
    tensors = named_tensors(masked)
    read = {consumer.in_axis for consumer in graph.consumers}
    for key, removed in _removed(masked, graph, keep).items():
        if norms == "all" and key not in read:
            continue
        tensor = _tensor_of(tensors, key)
        size = graph.axes[key].size
        if tensor.shape[key.dim] != size:
            raise InputError(_misfit(key, tensor, f"expected size {size} as in the graph"))
        _zero(tensor, key.dim, removed)
    if norms == "kept":
        narrow_norms(masked, graph.norms, keep)
    else:
        for full, layer in zip(model.modules(), masked.modules(), strict=True):
            if isinstance(full, nn.Embedding) and isinstance(layer, nn.Embedding):
                # a table that is also the output layer makes what the norms have to see
                whole = full.weight.detach().clone()
                layer.weight = nn.Parameter(whole, requires_grad=full.weight.requires_grad)
    return masked


def zeroed_axes(model: nn.Module, graph: ChannelGraph, keep: Keep) -> tuple[AxisKeep, ...]:
    """What `with_placeholders` adds to ``keep``, as indices whose weights have to be zero."""
    shaped = with_placeholders(graph, keep)
    held = {index: ~shaped[index] | units for index, units in keep.items()}
    return tuple(
        AxisKeep(key.tensor, key.dim, graph.axes[key].size, tuple(indices.tolist()))
        for key, indices in sorted(_removed(model, graph, held).items())
    )


def zero_placeholders(small: nn.Module, record: PlanRecord) -> None:
    """Sets the weights of units that stay for their shape alone to zero, in a sliced model."""
    kept, tensors = record.kept(), named_tensors(small)
    for axis in record.zeroed:
        among = kept.get(axis.key, np.arange(axis.size))
        _zero(tensors[axis.tensor], axis.dim, np.searchsorted(among, axis.indices))


def apply_plan(model: Module, record: PlanRecord) -> Module:
    """The model with the units removed that the plan removes; the model itself is not changed.

    Raises `InputError` if the plan was made for a model of another structure.
    """
    found = fingerprint(state_shapes(model))
    if found != record.fingerprint:
        raise InputError(
            f"the plan was made for another model: expected one with fingerprint "
            f"{record.fingerprint[:12]}, got {type(model).__name__} with {found[:12]}. Names and "
            f"shapes of all weights must be those of the model that was planned for, before "
            f"anything was removed."
        )
    small = slice_model(model, record.kept(), sizes=record.sizes, scales=record.scales)
    zero_placeholders(small, record)
    return small


def vary_constants(model: Module) -> Module:
    """A copy in which no parameter has the same value everywhere: what is one or zero is jittered.

    On a fresh model, norms of ones and zeros (and last layers of zeros) would hide that a channel
    was taken for another, and `probe` looks for exactly that. All other parameters are the model's
    own, not copies. Leaves the global RNG alone.
    """
    constant = {id(p) for p in model.parameters() if _is_constant(p)}
    # whoever looks for a difference copies what is changed: what is not jittered can be shared
    shared = {id(p): p for p in model.parameters() if id(p) not in constant}
    varied = deep_copy(model, shared)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for full, parameter in zip(model.parameters(), varied.parameters(), strict=True):
            if id(full) in constant:
                # a tenth: norms stay positive, and a last layer of zeros lets a signal through
                noise = torch.randn(parameter.shape, generator=generator) / 10
                parameter.add_(noise.to(parameter))
    return varied


def _is_constant(parameter: Tensor) -> bool:
    if not parameter.is_floating_point() or parameter.numel() < 2:
        return False
    flat = parameter.detach().reshape(-1)
    # most weights differ in their first entries: no need to read all of a large one
    return bool((flat[:64] == flat[0]).all()) and bool((flat == flat[0]).all())


def recorded_axes(model: nn.Module) -> tuple[AxisKeep, ...]:
    """What earlier calls of `slice_model` kept of the model, or of modules inside it.

    Names are those in ``model``; indices count in the full-size model. Empty if never sliced.
    """
    return tuple(
        AxisKeep(f"{name}.{axis.tensor}".lstrip("."), axis.dim, axis.size, axis.kept)
        for name, module in _recorded(model)
        for axis in vars(module)[RECORD]
    )


def original_indices(model: nn.Module) -> dict[tuple[str, int], tuple[int, ...]]:
    """Where what is left of a pruned model comes from: ``(tensor, dimension)`` -> indices.

    They count in the model that was never pruned, over all rounds, and also for a model that
    `mipp.load` read. Dimensions that lost nothing are absent, and so are all of a whole model.
    """
    return {(axis.tensor, axis.dim): axis.kept for axis in recorded_axes(unwrapped(model))}


def unwrapped(model: nn.Module) -> nn.Module:
    """The module in what `torch.compile` or a wrapper for several processes makes of it."""
    check_module(model)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    compiled = getattr(model, "_orig_mod", None)
    return model if compiled is None else unwrapped(compiled)


def state_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in the model's state, by every name it has, for `fingerprint`."""
    return {
        name: tuple(value.shape)
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and not is_lazy(value)
    }


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by every name it has."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(
        model.named_buffers(remove_duplicate=False)
    )


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the module itself, not of modules inside it."""
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))


def take(tensor: Shaped[Tensor, "..."], cuts: Mapping[int, IntArray]) -> Shaped[Tensor, "..."]:
    """A copy of the tensor with the given indices along each given dimension.

    It is contiguous, or in the memory format ``channels_last`` (of three dimensions, too) if the
    tensor is.
    """
    with torch.no_grad():
        chosen = tensor.clone() if not cuts else tensor
        for dim, indices in cuts.items():
            chosen = chosen.index_select(dim, torch.as_tensor(indices, device=tensor.device))
        return chosen.contiguous(memory_format=_memory_format(tensor)) if cuts else chosen


def _memory_format(tensor: Tensor) -> torch.memory_format:
    for dims, layout in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == dims and tensor.is_contiguous(memory_format=layout):
            # with one channel, or one pixel, a tensor is in both formats: the plain one is usual
            return torch.contiguous_format if tensor.is_contiguous() else layout
    return torch.contiguous_format


def cuts_by_tensor(
    model: nn.Module, kept: Mapping[AxisKey, IntArray], aliases: Mapping[str, str]
) -> dict[int, dict[int, IntArray]]:
    """``id`` of a tensor -> dimension -> kept indices, shape ``(n_kept,)``, checked."""
    tensors = named_tensors(model)
    cuts: dict[int, dict[int, IntArray]] = {}
    for key, indices in kept.items():
        others = [other for other, first in aliases.items() if first == key.tensor]
        for name in [key.tensor, *others]:
            tensor = _tensor_of(tensors, AxisKey(name, key.dim))
            size = tensor.shape[key.dim]
            fits = len(indices) > 0 and indices[0] >= 0 and indices[-1] < size
            if not fits or (np.diff(indices) <= 0).any():
                raise InputError(
                    _misfit(key, tensor, f"expected one or more rising indices, got {indices}")
                )
            earlier = cuts.setdefault(id(tensor), {}).setdefault(key.dim, indices)
            if not np.array_equal(earlier, indices):
                raise InputError(
                    _misfit(key, tensor, "two names of this shared tensor keep different indices")
                )
    return cuts


def _tensor_of(tensors: Mapping[str, Tensor], key: AxisKey) -> Tensor:
    tensor = tensors.get(key.tensor)
    if tensor is None:
        raise InputError(
            f"the model has no parameter or buffer {key.tensor!r}. Was the graph or the plan made "
            f"for another model?"
        )
    if "parametrizations" in key.tensor.split("."):
        raise SurgeryError(
            f"{key.tensor!r} belongs to a parametrized weight (weight or spectral norm), whose "
            f"values are computed from other tensors. Make it plain first, with "
            f"mipp.folded(model), or protect the layer."
        )
    if is_lazy(tensor):
        raise InputError(f"{key.tensor!r} has no shape yet. Run one batch through the model first.")
    if not 0 <= key.dim < tensor.ndim:
        raise InputError(_misfit(key, tensor, f"it has no dimension {key.dim}"))
    return tensor


def _misfit(key: AxisKey, tensor: Tensor, problem: str) -> str:
    return (
        f"dimension {key.dim} of {key.tensor!r}, of shape {tuple(tensor.shape)}: {problem}. Was "
        f"the graph or the plan made for another model?"
    )


def _sliced(tensor: Tensor, cuts: Mapping[int, IntArray]) -> Tensor:
    values = take(tensor.detach(), cuts)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return values.requires_grad_(tensor.requires_grad)


def deep_copy(model: Module, stand_ins: Mapping[int, Tensor]) -> Module:
    """A deep copy, with ``stand_ins`` by ``id`` of a tensor instead of copies of these."""
    try:
        return duplicate(model, stand_ins)
    except (RuntimeError, TypeError) as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied: {error}. A module may hold something that "
            f"cannot be copied, such as an open file or a lock; delete it and try again."
        ) from error


def _removed(model: nn.Module, graph: ChannelGraph, keep: Keep) -> dict[AxisKey, IntArray]:
    """Removed indices, shape ``(n_removed,)``, of each dimension that may be zeroed there."""
    safe = _safe_to_zero(model, graph)
    removed = {
        key: np.flatnonzero(~axis.kept(keep))
        for key, axis in graph.axes.items()
        if key in safe or key.tensor in safe
    }
    return {key: indices for key, indices in removed.items() if len(indices)}


def _zero(tensor: Tensor, dim: int, indices: IntArray) -> None:
    with torch.no_grad():
        tensor.index_fill_(dim, torch.as_tensor(indices, device=tensor.device), 0)


def _safe_to_zero(model: nn.Module, graph: ChannelGraph) -> set[AxisKey | str]:
    """Dimensions, and names of tensors in all dimensions, where removed units may be zeroed."""
    safe: set[AxisKey | str] = {consumer.in_axis for consumer in graph.consumers}
    safe |= {producer for group in graph.groups for producer in group.producers}
    safe |= {consumer.bias for consumer in graph.consumers if consumer.bias is not None}
    safe |= {key for product in graph.products for key in (*product.left, *product.right)}
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, ZERO_IS_SAFE):
            prefix = f"{name}." if name else ""
            safe |= {prefix + own for own, _ in layer.named_parameters(recurse=False)}
    return safe


def _composed(model: nn.Module, kept: Mapping[AxisKey, IntArray]) -> tuple[AxisKeep, ...]:
    """What is kept of the full-size model after slicing a model that may have been sliced."""
    tensors = named_tensors(model)
    before = {axis.key: axis for axis in recorded_axes(model)}
    now = dict(before)
    for key, indices in kept.items():
        earlier = before.get(key)
        size = tensors[key.tensor].shape[key.dim] if earlier is None else earlier.size
        chosen = indices if earlier is None else earlier.indices[indices]
        now[key] = AxisKeep(key.tensor, key.dim, size, tuple(chosen.tolist()))
    return tuple(now[key] for key in sorted(now))


def write_record(
    model: nn.Module, axes: tuple[AxisKeep, ...], sizes: tuple[AttributeKeep, ...] = ()
) -> None:
    """Note on the model what was kept, and on each module inside it its own part of that.

    A part is for whoever takes the module out and saves it alone; the outermost record is what
    counts otherwise.
    """
    tensors = named_tensors(model)
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    axes_in: dict[str, list[AxisKeep]] = {}
    for axis in axes:
        for own in names.get(id(tensors.get(axis.tensor)), ()):
            for path, rest in _inside(own):
                axes_in.setdefault(path, []).append(replace(axis, tensor=rest))
    sizes_in: dict[str, list[AttributeKeep]] = {}
    for size in sizes:
        for path, rest in _inside(f"{size.module}."):
            sizes_in.setdefault(path, []).append(replace(size, module=rest.removesuffix(".")))
    for path, module in model.named_modules():
        vars(module).pop(RECORD, None)
        vars(module).pop(SIZES, None)
        mine = axes if path == "" else tuple(axes_in.get(path, ()))
        counts = sizes if path == "" else tuple(sizes_in.get(path, ()))
        if mine or path == "":
            setattr(module, RECORD, mine)
        if counts:
            setattr(module, SIZES, counts)


def _inside(name: str) -> Iterator[tuple[str, str]]:
    """Paths of the modules that a name lies in, each with the name as seen from there."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        yield ".".join(parts[:depth]), ".".join(parts[depth:])


def check_sizes(model: nn.Module, sizes: Sequence[AttributeKeep], *, sliced: bool) -> None:
    """Raise `InputError` unless the attributes have the values after, or before, slicing."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for size in sizes:
        expected = size.after if sliced else size.before
        module = modules.get(size.module)
        found = None if module is None else integers(module).get(size.name)
        if found != expected:
            raise InputError(
                f"attribute {size.name!r} of {size.module!r} should be {expected} and is "
                f"{found!r}. Was the plan or the file made for another model?"
            )


def recorded_sizes(model: nn.Module) -> tuple[AttributeKeep, ...]:
    """The attributes that earlier calls of `slice_model` changed, named as in ``model``."""
    return tuple(
        AttributeKeep(f"{name}.{size.module}".strip("."), size.name, size.before, size.after)
        for name, module in _recorded(model)
        for size in vars(module).get(SIZES, ())
    )


def _recorded(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that were sliced, with their paths."""
    taken: list[str] = []
    for name, module in model.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") for outer in taken)
        if RECORD in vars(module) and not inside and taken != [""]:
            taken.append(name)
            yield name, module


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
            tensor = _tensor_of(tensors, key)
            chosen = torch.as_tensor(rows, device=tensor.device)
            scaled = tensor.index_select(scale.dim, chosen) * scale.factor
            tensor.index_copy_(scale.dim, chosen, scaled)


def _composed_sizes(model: nn.Module, sizes: Sequence[AttributeKeep]) -> tuple[AttributeKeep, ...]:
    """What became of the full-size model's attributes after slicing what may have been sliced."""
    now = {(size.module, size.name): size for size in recorded_sizes(model)}
    for size in sizes:
        earlier = now.get((size.module, size.name), size)
        now[size.module, size.name] = replace(size, before=earlier.before)
    return tuple(now[key] for key in sorted(now))
