"""Mean and scatter of rows that arrive in pieces, on one process or several."""

import torch
from jaxtyping import Float
from torch import Tensor

from mipp import processes
from mipp.covariance import FEW, Covariance, Factor, dense, varies

_PANEL = 1024
"""Columns of the scatter matrix computed at once: the lower triangle is left to symmetry."""


class Moments:
    """Count, mean and covariance of rows of ``d`` features, or of rows of several such blocks.

    While there are far fewer rows than features the rows are kept as they are, and the covariance
    comes as their `Factor`. Then their scatter (sum of outer products about the mean) takes their
    place: each piece is centred on its own mean before it is multiplied in its own precision
    (float32 or float64), and merged in ``dtype`` with the pairwise update of Chan, Golub and
    LeVeque (1979), so that features with a mean far from zero lose no digits.

    Args:
        d: features of a block.
        device: where the sums are kept.
        dtype: number type of the sums.
        blocks: how many blocks a row has, such as the groups of a convolution; features of
            different blocks are never multiplied with each other. With None a row is one block,
            and results have no dimension for it.
    """

    def __init__(
        self,
        d: int,
        device: torch.device,
        dtype: torch.dtype = torch.float64,
        blocks: int | None = None,
    ) -> None:
        self.count = 0
        self._blocks = blocks
        self._mean: Float[Tensor, "g d"] = torch.zeros(blocks or 1, d, dtype=dtype, device=device)
        self._scatter: Float[Tensor, "g d d"] | None = None
        self._pieces: list[Float[Tensor, "n 1 d"]] = []
        self._measured = torch.float64

    @property
    def mean(self) -> Float[Tensor, "*g d"]:
        """Mean of each feature."""
        return self._mean[0] if self._blocks is None else self._mean

    @property
    def finite(self) -> bool:
        """Whether no NaN or infinite value has come by."""
        return bool(torch.isfinite(self._mean).all())

    def update(self, rows: Float[Tensor, "n features"]) -> None:
        """Adds ``n`` rows, of the features of all blocks one after another."""
        n = len(rows)
        if n == 0:  # an expert that no token of this batch came to
            return
        self._measured = rows.dtype
        blocks = rows.view(n, *self._mean.shape)
        mean = blocks.mean(0)
        delta = mean.to(self._mean.dtype) - self._mean
        total = self.count + n
        few = len(self._mean) == 1 and FEW * total <= self._mean.shape[1]
        if self._scatter is None and few:
            self._pieces.append(blocks)
        else:
            self._add(blocks - mean)
            self._add_outer(delta, self.count * n / total)
        self._mean += delta * (n / total)
        self.count = total

    def _add(self, centred: Float[Tensor, "n g d"]) -> None:
        """Adds the outer products of rows to the scatter, whose lower triangle stays empty."""
        scatter, blocks = self._scattered(), centred.movedim(1, 0)
        for start in range(0, blocks.shape[2], _PANEL):
            panel = slice(start, start + _PANEL)
            scatter[:, panel, start:] += blocks[:, :, panel].mT @ blocks[:, :, start:]

    def _add_outer(self, delta: Float[Tensor, "g d"], times: float) -> None:
        self._scattered().baddbmm_(delta.unsqueeze(2), delta.unsqueeze(1), alpha=times)

    def _scattered(self) -> Float[Tensor, "g d d"]:
        """The scatter; the rows that were kept until now go into it."""
        if self._scatter is None:
            g, d = self._mean.shape
            self._scatter = torch.zeros(g, d, d, dtype=self._mean.dtype, device=self._mean.device)
            pieces, self._pieces = self._pieces, []
            if pieces:
                self._add(self._centred(pieces))
        return self._scatter

    def _centred(self, pieces: list[Float[Tensor, "n 1 d"]]) -> Float[Tensor, "all 1 d"]:
        return torch.cat(pieces).to(self._mean.dtype) - self._mean

    def all_reduce(self, what: str) -> None:
        """Merges the moments of all ranks, in a `mipp.processes.together` block.

        ``what``: whose moments they are, for errors.
        """
        if processes.rank_and_size()[1] == 1:
            return
        scatter = self._scattered()
        count = torch.tensor(float(self.count), dtype=torch.float64, device=self._mean.device)
        weighted = self._mean * self.count
        processes.all_reduce(f"the mean of {what}", count, weighted)
        mean = weighted / count
        self._add_outer(self._mean - mean, float(self.count))
        processes.all_reduce(f"the scatter of {what}", scatter)
        self._mean, self.count = mean, int(count)

    def covariance(self) -> Covariance | Float[Tensor, "g d d"]:
        """The scatter over the count, or its factor; features that never vary have exactly 0."""
        if self._scatter is None and self._pieces:
            rows = self._centred(self._pieces)[:, 0] / self.count**0.5
            constant = ~varies(rows.square().sum(0), self._mean[0], self._measured)
            rows[:, constant] = 0
            factor = Factor(rows)
            return factor if self._blocks is None else factor.dense().unsqueeze(0)
        upper = self._scattered().triu()
        full = (upper + upper.triu(1).mT) / max(self.count, 1)
        variance = full.diagonal(dim1=1, dim2=2).flatten()
        constant = ~varies(variance, self._mean.flatten(), self._measured).view_as(self._mean)
        full.masked_fill_(constant.unsqueeze(1), 0).masked_fill_(constant.unsqueeze(2), 0)
        return full[0] if self._blocks is None else full

    def second_moment(self) -> Float[Tensor, "*g d d"]:
        """E[x x']: the covariance, and the outer product of the mean."""
        mean = self.mean
        return dense(self.covariance()) + mean.unsqueeze(-1) * mean.unsqueeze(-2)


class Squares:
    """Count and sum of squares of rows of ``d`` features in blocks: the diagonal of `Moments`.

    Args:
        d: features of a block.
        device: where the sums are kept.
        dtype: number type of the sums.
        blocks: how many blocks a row has.
    """

    def __init__(self, d: int, device: torch.device, dtype: torch.dtype, blocks: int) -> None:
        self.count = 0
        self._sum: Float[Tensor, "g d"] = torch.zeros(blocks, d, dtype=dtype, device=device)

    @property
    def finite(self) -> bool:
        """Whether no NaN or infinite value has come by."""
        return bool(torch.isfinite(self._sum).all())

    def update(self, rows: Float[Tensor, "n features"]) -> None:
        """Adds ``n`` rows, of the features of all blocks one after another."""
        self._sum += rows.view(len(rows), *self._sum.shape).to(self._sum.dtype).square().sum(0)
        self.count += len(rows)

    def all_reduce(self, what: str) -> None:
        """Merges the sums of all ranks; see `Moments.all_reduce`."""
        count = torch.tensor(float(self.count), dtype=torch.float64, device=self._sum.device)
        processes.all_reduce(f"the squares of {what}", count, self._sum)
        self.count = int(count)

    def second_moment(self) -> Float[Tensor, "g d"]:
        """E[x^2] of each feature."""
        return self._sum / self.count
