"""Mean and scatter of rows that arrive in pieces, on one process or several."""

import torch
from jaxtyping import Float
from torch import Tensor

from mipp import processes
from mipp.covariance import FEW, Covariance, Factor, varies

_PANEL = 1024
"""Columns of the scatter matrix computed at once: the lower triangle is left to symmetry."""


class Moments:
    """Count, mean and covariance of rows of ``d`` features.

    While there are far fewer rows than features the rows are kept as they are, and the covariance
    comes as their `Factor`. Then their scatter (sum of outer products about the mean) takes their
    place: each piece is centred on its own mean before it is multiplied in its own precision
    (float32 or float64), and merged in ``dtype`` with the pairwise update of Chan, Golub and
    LeVeque (1979), so that features with a mean far from zero lose no digits.
    """

    def __init__(self, d: int, device: torch.device, dtype: torch.dtype = torch.float64) -> None:
        self.count = 0
        self.mean: Float[Tensor, " d"] = torch.zeros(d, dtype=dtype, device=device)
        self._scatter: Float[Tensor, "d d"] | None = None
        self._pieces: list[Float[Tensor, "n d"]] = []
        self._measured = torch.float64

    def update(self, rows: Float[Tensor, "n d"]) -> None:
        """Adds ``n`` rows."""
        n = len(rows)
        if n == 0:
            return
        self._measured = rows.dtype
        mean = rows.mean(0)
        delta = mean.to(self.mean.dtype) - self.mean
        total = self.count + n
        if self._scatter is None and FEW * total <= len(self.mean):
            self._pieces.append(rows)
        else:
            self._add(rows - mean)
            self._scattered().addr_(delta, delta, alpha=self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    def _add(self, centred: Float[Tensor, "n d"]) -> None:
        """Adds the outer products of rows to the scatter, whose lower triangle stays empty."""
        scatter = self._scattered()
        for start in range(0, centred.shape[1], _PANEL):
            panel = slice(start, start + _PANEL)
            scatter[panel, start:] += centred[:, panel].T @ centred[:, start:]

    def _scattered(self) -> Float[Tensor, "d d"]:
        """The scatter; the rows that were kept until now go into it."""
        if self._scatter is None:
            d = len(self.mean)
            self._scatter = torch.zeros(d, d, dtype=self.mean.dtype, device=self.mean.device)
            pieces, self._pieces = self._pieces, []
            if pieces:
                self._add(self._centred(pieces))
        return self._scatter

    def _centred(self, pieces: list[Float[Tensor, "n d"]]) -> Float[Tensor, "all d"]:
        return torch.cat(pieces).to(self.mean.dtype) - self.mean

    def all_reduce(self, what: str) -> None:
        """Merges the moments of all ranks, in a `mipp.processes.together` block.

        ``what``: whose moments they are, for errors.
        """
        if processes.rank_and_size()[1] == 1:
            return
        scatter = self._scattered()
        count = torch.tensor(float(self.count), dtype=torch.float64, device=self.mean.device)
        weighted = self.mean * self.count
        processes.all_reduce(f"the mean of {what}", count, weighted)
        mean = weighted / count
        delta = self.mean - mean
        scatter.addr_(delta, delta, alpha=float(self.count))
        processes.all_reduce(f"the scatter of {what}", scatter)
        self.mean, self.count = mean, int(count)

    def covariance(self) -> Covariance:
        """The scatter over the count, or its factor; features that never vary have exactly 0."""
        if self._scatter is None:
            if not self._pieces:
                return self._scattered()
            rows = self._centred(self._pieces) / self.count**0.5
            constant = ~varies(rows.square().sum(0), self.mean, self._measured)
            rows[:, constant] = 0
            return Factor(rows)
        upper = self._scatter.triu()
        full = (upper + upper.triu(1).T) / max(self.count, 1)
        constant = ~varies(full.diagonal(), self.mean, self._measured)
        full[constant] = 0
        full[:, constant] = 0
        return full
