"""The loss whose Fisher information says how finely a consumer's output matters.

The labels are drawn from the model's own predictions (the true Fisher, not the empirical one of the
given labels: Kunstner, Hennig and Balles 2019, arXiv 1905.12558).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mipp.capture.batches import Batch
from mipp.errors import CalibrationError, InputError

LossKind = Literal["categorical", "gaussian"]
Loss = LossKind | Callable[[Any, Any], Tensor]
"""``categorical``, ``gaussian`` (unit variance), or a function of (model output, target) that
gives the sum over the examples of the loss in nats."""


def floating_outputs(output: Any) -> list[Tensor]:
    """The floating-point tensors in what a model returns (tensor, tuple, dict, dataclass)."""
    if isinstance(output, dict):
        output = dict(output)
    leaves = pytree.tree_leaves(output)
    found = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not found:
        raise CalibrationError(
            f"The model returns {type(output).__name__} with no floating-point tensor in it; there "
            "is nothing whose information could be kept. Return the logits or the regression."
        )
    return found


def settle(loss: Loss | str, output: Any, target: Any) -> tuple[Loss, str]:
    """The loss to use, and in words why.

    ``auto`` takes ``categorical`` when the targets are integers, or when there are none and the one
    output has shape (batch, classes); ``gaussian`` otherwise.
    """
    if not isinstance(loss, str):
        return loss, "given by the caller"
    outputs = floating_outputs(output)
    logits = len(outputs) == 1 and outputs[0].dim() >= 2 and outputs[0].shape[1] > 1
    if loss == "categorical" and logits:
        return "categorical", "asked for"
    if loss == "categorical":
        shapes = [tuple(o.shape) for o in outputs]
        raise InputError(
            f"loss='categorical' needs one output of shape (batch, classes, ...); the model "
            f"returns {shapes}. Use loss='gaussian' or give a function of (output, target)."
        )
    if loss == "gaussian":
        return "gaussian", "asked for"
    if loss != "auto":
        raise InputError(
            f"loss={loss!r} is not known; expected 'auto', 'categorical', 'gaussian' or a function."
        )
    if isinstance(target, Tensor):
        if logits and not target.is_floating_point() and target.dim() == outputs[0].dim() - 1:
            return "categorical", "the targets are class numbers"
        return "gaussian", "the targets are no class numbers"
    if logits and outputs[0].dim() == 2:
        return "categorical", f"one output of shape (batch, {outputs[0].shape[1]}) and no targets"
    return "gaussian", "the output does not look like class scores"


def sampled_loss(loss: Loss, output: Any, batch: Batch, generator: torch.Generator) -> Tensor:
    """Sum over the batch of the loss, with a target drawn from the model's own prediction.

    ``generator`` lives on the CPU, so that the draw is the same on every device.
    """
    if not isinstance(loss, str):
        return loss(output, batch.target)
    outputs = floating_outputs(output)
    if loss == "gaussian":
        # d/dy of (y - t)^2 / 2 at t = y + e is -e: a random direction of unit variance
        total = torch.zeros((), device=outputs[0].device)
        for tensor in outputs:
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.device)
            total = total + (tensor.float() * noise).sum()
        return total
    logits = outputs[0].float().movedim(1, -1).flatten(0, -2)
    log_p = logits.log_softmax(-1)
    p = log_p.detach().exp().cpu().double()
    labels = torch.multinomial(p, 1, generator=generator).to(log_p.device)
    return -log_p.gather(1, labels).sum()
