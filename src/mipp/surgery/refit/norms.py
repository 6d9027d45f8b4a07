"""BatchNorm statistics that follow what pruning does to a norm's input."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import varies
from mipp.tracing.calls import NormCall


@dataclass(eq=False)
class NormStatistics:
    """Sums over the examples of one BatchNorm's input.

    Attributes:
        count: how many rows were added.
        total (channels,): sum of the rows.
        square (channels,): sum of their squares.
    """

    count: float = 0.0
    total: Tensor | float = 0.0
    square: Tensor | float = 0.0

    def add(self, values: Float[Tensor, "n c *space"]) -> None:
        """Adds the examples of a batch."""
        rows = values.double().movedim(1, -1).flatten(0, -2)
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.square = self.square + rows.square().sum(0)

    @property
    def mean(self) -> Float[Tensor, " c"]:
        """Mean of each channel."""
        return torch.as_tensor(self.total / self.count)

    @property
    def variance(self) -> Float[Tensor, " c"]:
        """Variance of each channel."""
        return torch.as_tensor(self.square / self.count) - self.mean.square()


def follow(
    call: NormCall,
    before: NormStatistics,
    channels: Int[Tensor, " kept"] | None,
    how: str,
) -> None:
    """Shifts the running statistics by what pruning did to the input, on the same examples.

    Args:
        call: of a norm in the changed model, whose statistics are set in place.
        before: of the same norm in the original model.
        channels: those of the original that are left, None for all.
        how: ``"mean"``, ``"full"`` (the variance, too) or ``"keep"``.
    """
    if how == "keep":
        return
    after = NormStatistics()
    after.add(call.input)
    chosen = slice(None) if channels is None else channels
    old_mean, new_mean = before.mean[chosen], after.mean
    call.running_mean.add_((new_mean - old_mean).to(call.running_mean.dtype))
    if how == "full":
        old_var, new_var = before.variance[chosen], after.variance
        # a channel that never varied on these examples says nothing of its variance on others
        varied = varies(old_var, old_mean, call.input.dtype)
        ratio = torch.where(varied, new_var.clamp_min(0) / old_var, 1.0)
        call.running_var.mul_(ratio.to(call.running_var.dtype))
