"""Parameters and buffers of a model by name, and parts of them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mipp.errors import InputError, SurgeryError
from mipp.records import AxisKey, IntArray
from mipp.surgery.keeps import fingerprint
from mipp.tracing.guards import duplicate

NO_ALIASES: Mapping[str, str] = MappingProxyType({})

Module = TypeVar("Module", bound=nn.Module)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by every name it has."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(
        model.named_buffers(remove_duplicate=False)
    )


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the module itself, not of modules inside it."""
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))


def state_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in the model's state, by every name it has, for `fingerprint`."""
    return {
        name: tuple(value.shape)
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor) and not is_lazy(value)
    }


def check_fingerprint(model: nn.Module, expected: str, when: str = "") -> None:
    """Raises `InputError` if a plan was made for a model of another structure.

    Args:
        model: The model that is given.
        expected: Fingerprint of the model that was planned for.
        when: Which of the states of the model it was planned for, for the error text.
    """
    found = fingerprint(state_shapes(model))
    if found != expected:
        raise InputError(
            f"the plan was made for another model: expected one with fingerprint {expected[:12]}, "
            f"got {type(model).__name__} with {found[:12]}. Names and shapes of all weights must "
            f"be those of the model that was planned for{when}."
        )


def cuts_by_tensor(
    model: nn.Module, kept: Mapping[AxisKey, IntArray], aliases: Mapping[str, str]
) -> dict[int, dict[int, IntArray]]:
    """``id`` of a tensor -> dimension -> kept indices, shape ``(n_kept,)``, checked."""
    tensors = named_tensors(model)
    cuts: dict[int, dict[int, IntArray]] = {}
    for key, indices in kept.items():
        others = [other for other, first in aliases.items() if first == key.tensor]
        for name in [key.tensor, *others]:
            tensor = tensor_of(tensors, AxisKey(name, key.dim))
            size = tensor.shape[key.dim]
            fits = len(indices) > 0 and indices[0] >= 0 and indices[-1] < size
            if not fits or (np.diff(indices) <= 0).any():
                raise InputError(
                    misfit(key, tensor, f"expected one or more rising indices, got {indices}")
                )
            earlier = cuts.setdefault(id(tensor), {}).setdefault(key.dim, indices)
            if not np.array_equal(earlier, indices):
                raise InputError(
                    misfit(key, tensor, "two names of this shared tensor keep different indices")
                )
    return cuts


def tensor_of(tensors: Mapping[str, Tensor], key: AxisKey) -> Tensor:
    """The tensor that has a dimension; raises where there is none, or it cannot be cut."""
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
            f"mipp.prepare.folded(model), or protect the layer."
        )
    if is_lazy(tensor):
        raise InputError(f"{key.tensor!r} has no shape yet. Run one batch through the model first.")
    if not 0 <= key.dim < tensor.ndim:
        raise InputError(misfit(key, tensor, f"it has no dimension {key.dim}"))
    return tensor


def misfit(key: AxisKey, tensor: Tensor, problem: str) -> str:
    """The text of an error about a dimension that does not fit the model."""
    return (
        f"dimension {key.dim} of {key.tensor!r}, of shape {tuple(tensor.shape)}: {problem}. Was "
        f"the graph or the plan made for another model?"
    )


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


def deep_copy(model: Module, stand_ins: Mapping[int, Tensor]) -> Module:
    """A deep copy, with ``stand_ins`` by ``id`` of a tensor instead of copies of these."""
    try:
        return duplicate(model, stand_ins)
    except (RuntimeError, TypeError) as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied: {error}. A module may hold something that "
            f"cannot be copied, such as an open file or a lock; delete it and try again."
        ) from error
