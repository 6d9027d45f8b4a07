"""Carrying an optimizer's momenta over to the smaller model."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mipp.errors import InputError
from mipp.records import AxisKey, IntArray
from mipp.surgery.tensors import NO_ALIASES, cuts_by_tensor, named_tensors, take


def remap_optimizer(
    optimizer: Optimizer,
    old_model: nn.Module,
    new_model: nn.Module,
    kept: Mapping[AxisKey, IntArray],
    aliases: Mapping[str, str] = NO_ALIASES,
) -> Optimizer:
    """An optimizer for the smaller model that goes on where the other one stood.

    The result has the class, hyperparameters and parameter groups of the one given, the parameters
    of the smaller model, and the state (momenta, second moments, step counts) of what was kept.
    The one given is not changed. Learning-rate schedulers and hooks stay with the old optimizer:
    make new schedulers for the result.

    Args:
        optimizer: The optimizer of the old model.
        old_model: The model whose parameters the optimizer has.
        new_model: What `slice_model` made of it with the same ``kept`` and ``aliases``.
        kept: Rising indices that stay, for each dimension that loses something.
        aliases: Other names of a tensor -> the name that ``kept`` has it under.

    Raises:
        InputError: A parameter of the optimizer that is not in ``old_model``, a smaller model that
            was sliced otherwise, or state that cannot be sliced (that of LBFGS, say).
    """
    cuts = cuts_by_tensor(old_model, kept, aliases)
    small = named_tensors(new_model)
    names = {id(tensor): name for name, tensor in named_tensors(old_model).items()}
    stand_ins: dict[int, Tensor] = {}
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        name = names.get(id(parameter))
        if name is None:
            raise InputError(
                f"the optimizer has a parameter of shape {tuple(parameter.shape)} that is not in "
                f"the model. Give the model that the optimizer was made for, and an optimizer that "
                f"has parameters of this model only."
            )
        dims = cuts.get(id(parameter), {})
        expected = [len(dims.get(dim, range(size))) for dim, size in enumerate(parameter.shape)]
        if name not in small or list(small[name].shape) != expected:
            found = tuple(small[name].shape) if name in small else "no such parameter"
            raise InputError(
                f"the smaller model does not fit: expected {name!r} of shape {tuple(expected)}, "
                f"got {found}. Give the model that was sliced with the same kept indices."
            )
        stand_ins[id(parameter)] = small[name]
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                stand_ins[id(value)] = _sliced_state(f"{key} of {name}", value, parameter, dims)
    return copy.deepcopy(optimizer, dict(stand_ins))


def sliced_states(
    optimizer: Optimizer,
    model: nn.Module,
    kept: Mapping[AxisKey, IntArray],
    aliases: Mapping[str, str] = NO_ALIASES,
) -> dict[Tensor, dict[str, Any]]:
    """The state of what stays, for each parameter of the model that loses something.

    Other parameters of the optimizer, also those of other models, are absent.

    Args:
        optimizer: Is not changed.
        model: Some or all of whose parameters the optimizer has.
        kept: Rising indices that stay, for each dimension that loses something.
        aliases: Other names of a tensor -> the name that ``kept`` has it under.

    Raises:
        InputError: State that cannot be sliced (that of LBFGS, say).
    """
    cuts = cuts_by_tensor(model, kept, aliases)
    names = {id(tensor): name for name, tensor in named_tensors(model).items()}
    return {
        parameter: {
            key: _sliced_state(f"{key} of {names[id(parameter)]}", value, parameter, dims)
            if isinstance(value, Tensor)
            else value
            for key, value in optimizer.state.get(parameter, {}).items()
        }
        for parameter in (p for group in optimizer.param_groups for p in group["params"])
        if (dims := cuts.get(id(parameter)))
    }


def _sliced_state(
    name: str, value: Tensor, parameter: Tensor, dims: Mapping[int, IntArray]
) -> Tensor:
    """State that runs along all dimensions of the parameter, or along some (Adafactor)."""
    if value.shape != parameter.shape and value.numel() == 1:
        return value.clone()
    along = value.ndim == parameter.ndim and all(
        size in (1, full) for size, full in zip(value.shape, parameter.shape, strict=True)
    )
    if not along:
        raise InputError(
            f"optimizer state {name} has shape {tuple(value.shape)}, expected that of the "
            f"parameter, {tuple(parameter.shape)}, or one number. State of this optimizer cannot "
            f"be carried over: make a new optimizer for the smaller model."
        )
    present = {d: kept for d, kept in dims.items() if value.shape[d] == parameter.shape[d]}
    return take(value, present)
