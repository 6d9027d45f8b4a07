"""Pruning a model in place: for training loops, which have the model and its parts in many places.

Modules and parameters stay the same objects and get new content, so that optimizers, schedulers,
hooks and wrappers that refer to them go on. `Plan.apply` makes a new model instead.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mipp.records import AxisKey, IntArray
from mipp.surgery.keeps import AttributeKeep
from mipp.surgery.optimizer import sliced_states
from mipp.surgery.tensors import NO_ALIASES
from mipp.tracing.size_attributes import put

_PLAIN = (int, float, str, tuple, type(None))
"""Values of attributes that are taken over; all others are those of the model."""


def become(
    model: nn.Module,
    small: nn.Module,
    kept: Mapping[AxisKey, IntArray],
    aliases: Mapping[str, str] = NO_ALIASES,
    sizes: Sequence[AttributeKeep] = (),
    optimizers: Iterable[Optimizer] = (),
) -> None:
    """Gives a model the weights and widths of its pruned copy, in place; gradients are dropped.

    Args:
        model: What ``small`` was made from by `slice_model`, and may be fitted since.
        small: Is not to be used afterwards, since the two share tensors.
        kept: As ``small`` was made with.
        aliases: Same.
        sizes: Same.
        optimizers: Keep the state of what stays; they may have parameters of other models, too.

    Raises:
        InputError: State of an optimizer that cannot be sliced. Nothing is changed then.
    """
    optimizers = list(optimizers)
    states = [sliced_states(optimizer, model, kept, aliases) for optimizer in optimizers]
    for module, pruned in zip(model.modules(), small.modules(), strict=True):
        module.__class__ = pruned.__class__
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            _replace_data(parameter, pruned.get_parameter(name).detach())
        for name, buffer in pruned.named_buffers(recurse=False, remove_duplicate=False):
            setattr(module, name, buffer)
        own, new = vars(module), vars(pruned)
        for name in [name for name in own if name.startswith("_mipp_") and name not in new]:
            del own[name]
        own.update({name: value for name, value in new.items() if isinstance(value, _PLAIN)})
    for size in sizes:
        put(model.get_submodule(size.module), size.name, size.after)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.state.update(state)


def _replace_data(parameter: nn.Parameter, values: Tensor) -> None:
    """The accumulator of gradients knows the old shape; another number type makes torch drop it."""
    parameter.grad = None
    other = torch.float64 if values.dtype != torch.float64 else torch.float32
    parameter.data = torch.empty(0, dtype=other, device=values.device)
    parameter.data = values
