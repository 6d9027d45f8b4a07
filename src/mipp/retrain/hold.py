"""Training that keeps pruned weights at zero: a step for `mipp.retrain.train`."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from mipp.errors import InputError

AnyStep = Callable[[torch.optim.Optimizer], None]
"""A `mipp.retrain.Step` that takes every optimizer of torch, in anybody's loop."""


def hold_zeros(model: nn.Module) -> AnyStep:
    """Keep every weight that is exactly zero now at zero: ``train(..., step=hold_zeros(model))``.

    This concerns parameters with two or more dimensions; biases and norms are free. After each step
    these weights, and their state in the optimizer (momentum), are exactly zero.

    Examples:
        >>> model = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = model.weight[0].zero_()
        >>> step = hold_zeros(model)
        >>> model(torch.ones(1, 2)).sum().backward()
        >>> step(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> model.weight[0].tolist()
        [0.0, 0.0]
    """
    masks = {
        name: parameter.detach() != 0
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and bool((parameter == 0).any())
    }
    return hold_masks(model, masks)


def hold_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> AnyStep:
    """Keep entries of parameters at zero where a boolean mask is false.

    Args:
        model: what is trained.
        masks: name of a parameter -> mask of its shape, true where an entry is free.

    Raises:
        InputError: if the model has no such parameter, or one of another shape.

    Examples:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> step = hold_masks(model, {"weight": torch.tensor([[True, False]])})
        >>> step(torch.optim.SGD(model.parameters(), lr=0.1))
        >>> model.weight[0, 1].item()
        0.0
    """
    named = dict(model.named_parameters())
    pruned: list[tuple[nn.Parameter, Tensor]] = []
    for name, mask in masks.items():
        found = named.get(name)
        if found is None or found.shape != mask.shape:
            has = "no such parameter" if found is None else f"one of shape {tuple(found.shape)}"
            raise InputError(
                f"a mask of shape {tuple(mask.shape)} was given for {name!r}, and the model has "
                f"{has}. Give the model that the plan was applied to."
            )
        pruned.append((found, ~mask.to(found.device)))

    def step(optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            for parameter, removed in pruned:
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(removed, 0)
            optimizer.step()
            for parameter, removed in pruned:
                parameter.masked_fill_(removed, 0)
                for remembered in optimizer.state.get(parameter, {}).values():
                    if isinstance(remembered, Tensor) and remembered.shape == parameter.shape:
                        remembered.masked_fill_(removed, 0)

    return step
