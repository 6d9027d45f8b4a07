"""Mean and scatter of rows that arrive in pieces, on one process or several."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mipp import processes
from mipp.covariance import FEW, PANEL, Covariance, Factor, dense, varies


class Moments:
    """Count, mean and covariance of rows of ``d`` features, or of rows of several such blocks.

    Rows wait until there are as many as features: few large products are several times faster than
    many small ones, and the sums are read and written less often. Those that wait are centred on
    their own mean, multiplied in their own precision (float32 or float64), and merged in ``dtype``
    with the pairwise update of Chan, Golub and LeVeque (1979), so that features with a mean far
    from zero lose no digits. While there are far fewer rows than features all of them wait, and the
    covariance comes as their `Factor`.

    Args:
        d: features of a block.
        device: where the sums are kept.
        dtype: number type of the sums.
        blocks: how many blocks a row has, such as the groups of a convolution; features of
            different blocks are never multiplied with each other. With None a row is one block,
            and results have no dimension for it.
        targets: how many targets each block has besides, whose covariance with the features is
            summed as well.
    """

    def __init__(
        self,
        d: int,
        device: torch.device,
        dtype: torch.dtype = torch.float64,
        blocks: int | None = None,
        targets: int = 0,
    ) -> None:
        self._blocks, self._d, self._dtype, self._device = blocks, d, dtype, device
        self._shape = (blocks or 1, d + targets)
        self._mean: Float[Tensor, "g z"] = torch.zeros(self._shape, dtype=dtype, device=device)
        self._scatter: Float[Tensor, "g d z"] | None = None
        self._waiting: list[tuple[Tensor, ...]] = []
        self._merged = 0
        self._measured = torch.float64

    @property
    def count(self) -> int:
        """How many rows there were."""
        return self._merged + sum(len(piece[0]) for piece in self._waiting)

    @property
    def mean(self) -> Float[Tensor, "*g d"]:
        """Mean of each feature."""
        return self._of_blocks(self._all_means()[:, : self._d])

    @property
    def target_mean(self) -> Float[Tensor, "*g m"]:
        """Mean of each target."""
        return self._of_blocks(self._all_means()[:, self._d :])

    @property
    def finite(self) -> bool:
        """Whether no NaN or infinite value has come by."""
        return bool(torch.isfinite(self._all_means()).all())

    def update(
        self, rows: Float[Tensor, "n features"], targets: Float[Tensor, "n outputs"] | None = None
    ) -> None:
        """Adds ``n`` rows, of the features of all blocks one after another."""
        n = len(rows)
        if n == 0:  # an expert that no token of this batch came to
            return
        self._measured = rows.dtype
        given = (rows,) if targets is None else (rows, targets)
        self._waiting.append(tuple(part.reshape(n, self._shape[0], -1) for part in given))
        waiting = self.count - self._merged
        if waiting >= max(self._d, PANEL) and not self._few:
            self._merge()

    @property
    def _few(self) -> bool:
        """Whether rows are kept as they are."""
        alone = self._scatter is None and self._shape == (1, self._d)
        return alone and FEW * self.count <= self._d

    def _of_blocks(self, values: Tensor) -> Tensor:
        return values[0] if self._blocks is None else values

    def _all_means(self) -> Float[Tensor, "g z"]:
        if self._few and self._waiting:
            return self._together().mean(0, dtype=self._dtype)
        self._merge()
        return self._mean

    def _together(self) -> Float[Tensor, "n g z"]:
        """The rows that wait, their targets behind the features."""
        columns = [torch.cat(part) for part in zip(*self._waiting, strict=True)]
        return columns[0] if len(columns) == 1 else torch.cat(columns, 2)

    def _merge(self) -> Float[Tensor, "g d z"]:
        """The scatter of all rows, whose part below the diagonal stays empty."""
        if self._scatter is None:
            g, z = self._shape
            self._scatter = torch.zeros(g, self._d, z, dtype=self._dtype, device=self._device)
        if self._waiting:
            rows = self._together()
            self._waiting = []
            n, mean = len(rows), rows.mean(0)
            rows -= mean
            delta, total = mean.to(self._dtype) - self._mean, self._merged + n
            self._add(rows.movedim(1, 0))
            self._add_outer(delta, self._merged * n / total)
            self._mean += delta * (n / total)
            self._merged = total
        return self._scatter

    def _add(self, centred: Float[Tensor, "g n z"]) -> None:
        assert self._scatter is not None
        if centred.shape[2] == 1:  # features alone, for which no product is fast
            self._scatter += centred.square().sum(1, keepdim=True)
            return
        for start in range(0, self._d, PANEL):
            panel = slice(start, min(start + PANEL, self._d))
            self._scatter[:, panel, start:] += centred[:, :, panel].mT @ centred[:, :, start:]

    def _add_outer(self, delta: Float[Tensor, "g z"], times: float) -> None:
        assert self._scatter is not None
        own = delta[:, : self._d].unsqueeze(2)
        self._scatter.baddbmm_(own, delta.unsqueeze(1), alpha=times)

    def all_reduce(self, what: str) -> None:
        """Merges the moments of all ranks, in a `mipp.processes.together` block.

        ``what``: whose moments they are, for errors.
        """
        if processes.rank_and_size()[1] == 1:
            return
        scatter = self._merge()
        count = torch.tensor(float(self._merged), dtype=torch.float64, device=self._device)
        weighted = self._mean * self._merged
        processes.all_reduce(f"the mean of {what}", count, weighted)
        mean = weighted / count.clamp_min(1)
        self._add_outer(self._mean - mean, float(self._merged))
        processes.all_reduce(f"the scatter of {what}", scatter)
        self._mean, self._merged = mean, int(count)

    def covariance(self) -> Covariance | Float[Tensor, "g d d"]:
        """The scatter over the count, or its factor; features that never vary have exactly 0."""
        if self._few and self._waiting:
            rows = self._together()[:, 0].to(self._dtype)
            mean = rows.mean(0)
            rows = (rows - mean) / self.count**0.5
            rows[:, ~varies(rows.square().sum(0), mean, self._measured)] = 0
            factor = Factor(rows)
            return factor if self._blocks is None else factor.dense().unsqueeze(0)
        full = _mirrored(self._merge()[:, :, : self._d], max(self._merged, 1))
        constant = self._constant()
        if bool(constant.any()):
            full.masked_fill_(constant.unsqueeze(1), 0).masked_fill_(constant.unsqueeze(2), 0)
        return self._of_blocks(full)

    def cross_covariance(self) -> Float[Tensor, "*g d m"]:
        """Covariance of each feature with each target; 0 for features that never vary."""
        across = self._merge()[:, :, self._d :] / max(self._merged, 1)
        return self._of_blocks(across.masked_fill_(self._constant().unsqueeze(2), 0))

    def _constant(self) -> Bool[Tensor, "g d"]:
        """Which features never vary."""
        variance = self._merge().diagonal(dim1=1, dim2=2).flatten() / max(self._merged, 1)
        mean = self._mean[:, : self._d].flatten()
        return ~varies(variance, mean, self._measured).view(-1, self._d)

    def second_moment(self) -> Float[Tensor, "*g d d"]:
        """E[x x']: the covariance, and the outer product of the mean."""
        mean = self.mean
        return dense(self.covariance()) + mean.unsqueeze(-1) * mean.unsqueeze(-2)


def _mirrored(upper: Float[Tensor, "g d d"], n: int) -> Float[Tensor, "g d d"]:
    """The part on and above the diagonal over ``n``, and its mirror image below.

    In panels, since whole matrices are read and written several times.
    """
    d, full = upper.shape[2], torch.empty_like(upper)
    for start in range(0, d, PANEL):
        panel = slice(start, min(start + PANEL, d))
        torch.div(upper[:, panel, start:], n, out=full[:, panel, start:])
        full[:, panel.stop :, panel] = full[:, panel, panel.stop :].mT
        corner = full[:, panel, panel].triu()
        full[:, panel, panel] = corner + corner.triu(1).mT
    return full


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
