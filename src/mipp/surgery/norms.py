"""BatchNorm statistics that follow what pruning does to a norm's input."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import varies
from mipp.tracing.calls import NormCall


@dataclass(eq=False)
class NormStatistics:
    """Sums over the examples of one BatchNorm's input, each of shape ``(channels,)``."""

    count: float = 0.0
    total: Tensor | float = 0.0
    square: Tensor | float = 0.0

    def add(self, values: Float[Tensor, "n c *space"]) -> None:
        """Counts the examples of a batch."""
        rows = values.double().movedim(1, -1).flatten(0, -2)
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.square = self.square + rows.square().sum(0)


def follow(
    call: NormCall,
    before: NormStatistics,
    channels: Int[Tensor, " kept"] | None,
    how: str,
) -> None:
    """Shifts the running statistics by what pruning did to the input, on the same examples.

    ``before``: of the same norm in the original model, of whose channels those in ``channels`` are
    left (all with None). ``how``: ``"mean"``, ``"full"`` (the variance, too) or ``"keep"``.
    """
    if how == "keep":
        return
    after = NormStatistics()
    after.add(call.input)
    chosen = slice(None) if channels is None else channels
    assert isinstance(before.total, Tensor)
    assert isinstance(before.square, Tensor)
    assert isinstance(after.total, Tensor)
    assert isinstance(after.square, Tensor)
    old_mean, new_mean = before.total[chosen] / before.count, after.total / after.count
    call.running_mean.add_((new_mean - old_mean).to(call.running_mean.dtype))
    if how == "full":
        old_var = before.square[chosen] / before.count - old_mean.square()
        new_var = after.square / after.count - new_mean.square()
        # a channel that never varied on these examples says nothing of its variance on others
        varied = varies(old_var, old_mean, call.input.dtype)
        ratio = torch.where(varied, new_var.clamp_min(0) / old_var, 1.0)
        call.running_var.mul_(ratio.to(call.running_var.dtype))
