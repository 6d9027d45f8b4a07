"""Mean and scatter of rows that arrive in pieces, on one process or several."""

import torch
from jaxtyping import Float
from torch import Tensor

from mipp import processes

_PANEL = 1024
"""Columns of the scatter matrix computed at once: the lower triangle is left to symmetry."""


class Moments:
    """Count, mean and scatter (sum of outer products about the mean) of rows of ``d`` features.

    Each piece is centred on its own mean before it is multiplied in its own precision (float32 or
    float64), and merged in ``dtype`` with the pairwise update of Chan, Golub and LeVeque (1979):
    features with a mean far from zero lose no digits.
    """

    def __init__(self, d: int, device: torch.device, dtype: torch.dtype = torch.float64) -> None:
        self.count = 0
        self.mean: Float[Tensor, " d"] = torch.zeros(d, dtype=dtype, device=device)
        self.scatter: Float[Tensor, "d d"] = torch.zeros(d, d, dtype=dtype, device=device)

    def update(self, rows: Float[Tensor, "n d"]) -> None:
        """Adds ``n`` rows."""
        n = len(rows)
        if n == 0:
            return
        mean = rows.mean(0)
        centred = rows - mean
        delta = mean.to(self.mean.dtype) - self.mean
        total = self.count + n
        for start in range(0, rows.shape[1], _PANEL):
            panel = slice(start, start + _PANEL)
            self.scatter[panel, start:] += centred[:, panel].T @ centred[:, start:]
        self.scatter.addr_(delta, delta, alpha=self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    def all_reduce(self, what: str) -> None:
        """Merges the moments of all ranks, in a `mipp.processes.together` block.

        ``what``: whose moments they are, for errors.
        """
        if processes.rank_and_size()[1] == 1:
            return
        count = torch.tensor(float(self.count), dtype=torch.float64, device=self.mean.device)
        weighted = self.mean * self.count
        processes.all_reduce(f"the mean of {what}", count, weighted)
        mean = weighted / count
        delta = self.mean - mean
        self.scatter.addr_(delta, delta, alpha=float(self.count))
        processes.all_reduce(f"the scatter of {what}", self.scatter)
        self.mean, self.count = mean, int(count)

    def covariance(self) -> Float[Tensor, "d d"]:
        """The scatter divided by the count, both triangles filled in."""
        upper = self.scatter.triu()
        return (upper + upper.triu(1).T) / max(self.count, 1)
