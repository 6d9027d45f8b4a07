"""BatchNorm statistics that follow what pruning does to a norm's input."""

import torch
from jaxtyping import Int
from torch import Tensor

from mipp.covariance import varies
from mipp.tracing.calls import NormCall
from mipp.tracing.notes import NormSums


def follow(
    call: NormCall,
    before: NormSums,
    after: NormSums,
    channels: Int[Tensor, " kept"] | None,
    how: str,
) -> None:
    """Shifts the running statistics by what pruning did to the input, on the same examples.

    Args:
        call: of a norm in the changed model, whose statistics are set in place.
        before: of the same norm in the original model.
        after: of this one.
        channels: those of the original that are left, None for all.
        how: ``"mean"``, ``"full"`` (the variance, too) or ``"keep"``.
    """
    if how == "keep":
        return
    chosen = slice(None) if channels is None else channels
    device = call.running_mean.device
    old_mean, new_mean = before.mean.to(device)[chosen], after.mean
    call.running_mean.add_((new_mean - old_mean).to(call.running_mean.dtype))
    if how == "full":
        old_var, new_var = before.variance.to(device)[chosen], after.variance
        # a channel that never varied on these examples says nothing of its variance on others
        varied = varies(old_var, old_mean, call.input.dtype)
        ratio = torch.where(varied, new_var.clamp_min(0) / old_var, 1.0)
        call.running_var.mul_(ratio.to(call.running_var.dtype))
