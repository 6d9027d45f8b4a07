"""Copies of a model, of the same size, in which the weights of removed units are zero.

Norms across removed units see in such a copy what the norms of the sliced model see.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mipp.errors import InputError
from mipp.records import Axis, AxisKey, ChannelGraph, IntArray, Keep
from mipp.surgery.attributes import ZERO_IS_SAFE, fit_attributes
from mipp.surgery.keeps import AxisKeep, axis_keeps, check_keep, with_placeholders
from mipp.surgery.record import PlanRecord
from mipp.surgery.tensors import deep_copy, misfit, named_tensors, tensor_of

Module = TypeVar("Module", bound=nn.Module)


def mask_model(
    model: Module, graph: ChannelGraph, keep: Keep, *, norms: Literal["kept", "all"] = "kept"
) -> Module:
    """A copy of the model, of the same size, that computes what the sliced model computes.

    The consumers' weights that read removed units are set to zero, which alone is exact; so are
    the weights, biases and norm parameters that make them. Buffers (running statistics) stay, and
    so do parameters of layers not known here, where a zero might be divided by.

    Args:
        model: The model, which is not changed.
        graph: Its groups.
        keep: Masks of the units that stay; a group may be left without any unit.
        norms: With ``"kept"`` a norm across removed units sees the kept ones alone, as in the
            sliced model, by a hook. With ``"all"`` it sees all units as in the model itself, and no
            layer reads its outputs for the removed ones: as if their removal were exact.

    Raises:
        InputError: ``keep`` does not fit the graph or the graph does not fit the model.
    """
    check_keep(graph, keep, may_empty=True)
    masked = deep_copy(model, {})
    tensors = named_tensors(masked)
    read = {consumer.in_axis for consumer in graph.consumers}
    for key, removed in _removed(masked, graph, keep).items():
        if norms == "all" and key not in read:
            continue
        tensor = tensor_of(tensors, key)
        size = graph.axes[key].size
        if tensor.shape[key.dim] != size:
            raise InputError(misfit(key, tensor, f"expected size {size} as in the graph"))
        _zero(tensor, key.dim, removed)
    if norms == "kept":
        _narrow_norms(masked, graph.norms, keep)
    else:
        for full, layer in zip(model.modules(), masked.modules(), strict=True):
            if isinstance(full, nn.Embedding) and isinstance(layer, nn.Embedding):
                # a table that is also the output layer makes what the norms have to see
                whole = full.weight.detach().clone()
                layer.weight = nn.Parameter(whole, requires_grad=full.weight.requires_grad)
    return masked


def zeroed_axes(model: nn.Module, graph: ChannelGraph, keep: Keep) -> tuple[AxisKeep, ...]:
    """The indices that `with_placeholders` adds to ``keep``, whose weights have to be zero."""
    shaped = with_placeholders(graph, keep)
    without = {index: ~shaped[index] | units for index, units in keep.items()}
    return axis_keeps(graph, _removed(model, graph, without))


def zero_placeholders(small: nn.Module, record: PlanRecord) -> None:
    """Sets the weights of units that stay for their shape alone to zero, in a sliced model."""
    kept, tensors = record.kept(), named_tensors(small)
    for axis in record.zeroed:
        among = kept.get(axis.key, np.arange(axis.size))
        _zero(tensors[axis.tensor], axis.dim, np.searchsorted(among, axis.indices))


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


class NarrowNorm:
    """A hook that returns the norm of the ``kept`` features alone, and zero elsewhere."""

    def __init__(self, norm: nn.Module, kept: IntArray, n_features: int) -> None:
        self.kept, self.n_features = kept, n_features
        self.narrow = _with_features(norm, kept)
        # the same with its features in another order, which shows where in its input they are
        self.reversed = _with_features(norm, np.arange(n_features)[::-1].copy())

    def __call__(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The output that takes the place of the norm's own."""
        dim = self._feature_dim(args, output)
        places = torch.as_tensor(self.kept, device=output.device)
        made = self.narrow(args[0].index_select(dim, places), *args[1:])
        return torch.zeros_like(output).index_copy(dim, places, made.to(output.dtype))

    def _feature_dim(self, args: tuple[Any, ...], output: Tensor) -> int:
        """The last one, unless the module permutes its input, as ``LayerNorm2d`` does."""
        x: Tensor = args[0]
        dims = [dim for dim in range(-1, -x.dim() - 1, -1) if x.shape[dim] == self.n_features]
        if len(dims) == 1:
            return dims[0]

        def difference(dim: int) -> float:
            turned = self.reversed(x.flip(dim), *args[1:]).flip(dim)
            return float((turned - output).detach().abs().max())

        return min(dims, key=difference)


def _with_features(norm: nn.Module, chosen: IntArray) -> nn.Module:
    """A copy of a norm for some of its features, in this order."""
    shared = {id(tensor): tensor for tensor in norm.parameters()}
    made = copy.deepcopy(norm, dict(shared))
    for name, tensor in list(made.named_parameters(recurse=False)):
        places = torch.as_tensor(chosen, device=tensor.device)
        setattr(made, name, nn.Parameter(tensor.detach()[places]))
    fit_attributes("", made, chosen)
    return made


def _narrow_norms(masked: nn.Module, norms: tuple[Axis, ...], keep: Keep) -> None:
    """Makes the norms of a masked model go across what is kept, in place."""
    modules: Mapping[str, nn.Module] = dict(masked.named_modules(remove_duplicate=False))
    for norm in norms:
        kept = norm.kept(keep)
        if not kept.all() and kept.any():
            module = modules[norm.key.tensor]
            module.register_forward_hook(NarrowNorm(module, kept.nonzero()[0], len(kept)))


def drop_narrow_norms(model: nn.Module) -> None:
    """Removes those hooks, in place."""
    for module in model.modules():
        hooks = module._forward_hooks  # noqa: SLF001 # only who registers a hook is given its handle
        for number in [n for n, hook in hooks.items() if isinstance(hook, NarrowNorm)]:
            del hooks[number]
