"""AdamW with float32 copies of weights in lower precision."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class MasterAdamW(torch.optim.Optimizer):
    """AdamW without weight decay, whose small updates are not lost in bfloat16 or float16.

    Args:
        parameters: that are trained.
        lr: learning rate.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self._masters: list[tuple[nn.Parameter, Tensor]] = [
            (p, nn.Parameter(p.detach().float().clone())) for p in parameters if p.itemsize < 4
        ]
        masters = {id(p): master for p, master in self._masters}
        self._inner = torch.optim.AdamW(
            [masters.get(id(p), p) for p in parameters], lr=lr, weight_decay=0.0
        )

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step with the learning rate of `param_groups`."""
        assert closure is None
        for p, master in self._masters:
            master.grad = None if p.grad is None else p.grad.float()
        for group in self._inner.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        self._inner.step()
        with torch.no_grad():
            for p, master in self._masters:
                p.copy_(master)
                master.grad = None
