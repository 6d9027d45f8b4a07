"""Losses of predictions in nats per row, which train and compare the learned estimators.

    I(X; Y) ~ E[loss(f(nothing), Y)] - E[loss(f(X), Y)]        Covert, Lundberg and Lee 2020

with cross-entropy for class indices. For real targets seen through noise of covariance N, the loss
is the negative logarithm of a Gaussian density about the prediction, up to a constant:

    loss = 1/2 logdet(R + N) + 1/2 tr(inverse(R + N) (r r^T + N))        r = Y - f(X), R = E[r r^T]

so that the difference of two mean losses is 1/2 logdet(R_1 + N) - 1/2 logdet(R_2 + N).
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import centred
from mipp.information.views import Observations

Measure = Literal["nats", "squared"]
"""The loss of real targets; class indices have cross-entropy with both.

* ``nats``: the Gaussian likelihood above.
* ``squared``: half the squared error, summed over targets in units of the noise, the paper's
  stand-in for a continuous target: the limit of ``nats`` for errors far below the noise.
"""

FLOOR = 1e-6
"""Variance, as a share of a target's own, below which an error counts as none: without noise a
target that follows exactly from the features has infinite information."""

ROWS_PER_TARGET = 8
"""Fewest held-out rows for each target kept: a covariance from fewer is too noisy to judge others
by."""


class Goal:
    """The targets of one view, ready to be predicted, and the loss of predictions of them.

    Real targets are centred, divided by the deviation of their noise (by their own where there is
    none), and rotated to their principal axes. At most ``max_targets`` axes of most variance are
    kept: those with the most room for information.
    """

    def __init__(
        self,
        view: Observations,
        measure: Measure,
        max_targets: int,
        held_out: int,
        generator: torch.Generator,
    ) -> None:
        self.is_class = not view.targets.is_floating_point()
        self.measure = measure
        self.noise = 1.0 if view.noise > 0 else FLOOR
        self._unit = 1.0
        if self.is_class:
            self.values = view.targets.long()
            self.n_outputs = int(self.values.max()) + 1
            return
        y = centred(view.targets)
        deviation = y.square().mean(0).sqrt()
        y = y / view.noise**0.5 if view.noise > 0 else (y / deviation)[:, deviation > 0]
        if y.shape[1] == 0:
            # nothing varies, so nothing can be predicted
            y = torch.zeros(len(y), 1, dtype=y.dtype, device=y.device)
        limit = max(1, min(max_targets, held_out // ROWS_PER_TARGET))
        values = principal(y, limit, generator)
        self.n_outputs = values.shape[1]
        # networks start with outputs of order one; in units of the noise targets may be far from it
        scale = float(values.square().mean(0).max().sqrt()) or 1.0
        self.values = (values / scale).float()
        self.noise, self._unit = self.noise / scale**2, 1 / scale**2

    def fit_loss(
        self, outputs: Float[Tensor, "nets rows m"], rows: Int[Tensor, "nets rows"]
    ) -> Float[Tensor, " nets"]:
        """The training loss: errors of the targets are taken as independent."""
        if self.is_class:
            nets, n = rows.shape
            flat = F.cross_entropy(
                outputs.flatten(0, 1), self.values[rows.flatten()], reduction="none"
            )
            return flat.view(nets, n).mean(1)
        error = (self.values[rows] - outputs).square().mean(1)
        if self.measure == "squared":
            return 0.5 * error.sum(1)
        # rescaled where the noise is large, or gradients of errors far below it would vanish
        return 0.5 * max(1.0, self.noise) * (error / self.noise).log1p().sum(1)

    def losses(
        self,
        outputs: Float[Tensor, "some rows m"],
        rows: Int[Tensor, " rows"],
        sizes: Sequence[int],
    ) -> Float[Tensor, "some folds"]:
        """Mean held-out loss in nats of each fold; ``rows`` are fold after fold, of these sizes.

        A fold is judged by the residual covariance of the other folds, so no row is judged by
        itself and a difference of two losses may come out negative.
        """
        if self.is_class:
            some, n = outputs.shape[:2]
            wanted = self.values[rows].expand(some, n)
            each = F.cross_entropy(outputs.mT, wanted, reduction="none").double()
            return torch.stack([part.mean(1) for part in each.split(list(sizes), 1)], 1)
        errors = self.values[rows] - outputs
        if self.measure == "squared":
            each = 0.5 * errors.double().square().sum(2) / self._unit
            return torch.stack([part.mean(1) for part in each.split(list(sizes), 1)], 1)
        sums = torch.stack([p.mT @ p for p in errors.split(list(sizes), 1)], 1).double()
        counts = torch.tensor(list(sizes), device=sums.device).double()[:, None, None]
        sums = sums / self.noise
        eye = torch.eye(self.n_outputs, dtype=sums.dtype, device=sums.device)
        others = (sums.sum(1, keepdim=True) - sums) / (counts.sum() - counts)
        root = torch.linalg.cholesky(others + eye)
        inverse = torch.cholesky_inverse(root)
        trace = (inverse * (sums / counts - others)).sum((2, 3))
        return root.diagonal(dim1=2, dim2=3).log().sum(2) + 0.5 * trace

    def nothing(
        self, fit: Sequence[Int[Tensor, " _"]], rows: Int[Tensor, " rows"], sizes: Sequence[int]
    ) -> Float[Tensor, " folds"]:
        """Loss of the best constant prediction: the mean or class frequencies of ``fit`` rows.

        Args:
            fit: For each fold, the rows that its constant is computed from.
            rows: As in `losses`.
            sizes: As in `losses`.
        """
        outputs = torch.cat(
            [self._constant(f).expand(n, -1) for f, n in zip(fit, sizes, strict=True)]
        )
        return self.losses(outputs.unsqueeze(0), rows, sizes)[0]

    def _constant(self, fit: Int[Tensor, " n"]) -> Float[Tensor, " m"]:
        if not self.is_class:
            return self.values[fit].mean(0)
        counts = torch.bincount(self.values[fit], minlength=self.n_outputs).float()
        # a class that the fitting rows lack is rare, not impossible
        return ((counts + 0.5) / (counts + 0.5).sum()).log()


def principal(
    y: Float[Tensor, "rows m"], limit: int, generator: torch.Generator
) -> Float[Tensor, "rows k"]:
    """Centred targets along at most ``limit`` of their principal axes, most variance first."""
    if y.shape[1] <= max(limit, 512):
        axes = torch.linalg.eigh(y.T @ y).eigenvectors.flip(1)[:, :limit]
        return y @ axes
    # subspace iteration: the last axes need not be exact
    start = torch.randn(y.shape[1], limit + 16, generator=generator, dtype=torch.float32)
    y = y.float()
    basis = start.to(y.device)
    for _ in range(3):
        basis = torch.linalg.qr(y.T @ (y @ basis)).Q
    seen = y @ basis
    axes = torch.linalg.eigh((seen.T @ seen).double()).eigenvectors.flip(1)[:, :limit]
    return seen.double() @ axes
