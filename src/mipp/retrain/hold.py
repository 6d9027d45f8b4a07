"""Training that leaves zeros alone: a step for `mipp.retrain.train`."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mipp.errors import InputError

AnyStep = Callable[[torch.optim.Optimizer], None]
"""A `mipp.retrain.Step` that takes every optimizer of torch, in anybody's loop."""


def hold_zeros(model: nn.Module) -> AnyStep:
    """Keeps every weight that is exactly zero now at zero: ``train(..., step=hold_zeros(model))``.

    Of parameters with two or more dimensions; biases and norms are free. After each step these
    weights, and what the optimizer remembers of them (momentum), are exactly zero.
    """
    masks = {
        name: parameter.detach() != 0
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and bool((parameter == 0).any())
    }
    return hold_masks(model, masks)


def hold_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> AnyStep:
    """The same for the entries of parameters, by name, where a boolean mask is false.

    Raises:
        InputError: the model has no such parameter, or one of another shape.
    """
    named = dict(model.named_parameters())
    held: list[tuple[nn.Parameter, Tensor]] = []
    for name, mask in masks.items():
        found = named.get(name)
        if found is None or found.shape != mask.shape:
            has = "no such parameter" if found is None else f"one of shape {tuple(found.shape)}"
            raise InputError(
                f"a mask of shape {tuple(mask.shape)} was given for {name!r}, and the model has "
                f"{has}. Give the model that the plan was applied to."
            )
        held.append((found, ~mask.to(found.device)))

    def step(optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            for parameter, gone in held:
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(gone, 0)
            optimizer.step()
            for parameter, gone in held:
                parameter.masked_fill_(gone, 0)
                for remembered in optimizer.state.get(parameter, {}).values():
                    if isinstance(remembered, Tensor) and remembered.shape == parameter.shape:
                        remembered.masked_fill_(gone, 0)

    return step
