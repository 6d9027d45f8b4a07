"""One consumer's side of the Gaussian elimination: precision, regression, and their downdates."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.errors import InputError
from mipp.information.estimator import ConsumerView
from mipp.records import FloatArray


class State:
    """One consumer during the elimination: precision P, regression B, Z = inverse(C) B, unit-major.

    Every unit owns ``k`` columns; units with fewer features are padded with independent features of
    unit variance and no weight, which carry no information and change nothing.
    """

    def __init__(
        self,
        view: ConsumerView,
        n_units: int,
        noise: float | str,
        ridge: float,
        dtype: torch.dtype,
    ) -> None:
        wide = torch.float64
        cov = view.covariance.to(wide)
        scale = cov.diagonal().clamp_min(0).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        corr = cov / torch.outer(scale, scale)
        corr.diagonal().add_(ridge)
        # a constant feature has no variance left but the ridge
        self.uses = view.uses
        weight = whitened(view.weight.to(wide) * scale, view, cov, scale, noise)
        self.total = 0.5 * view.uses * _logdet_eye_plus(weight @ corr @ weight.T)
        columns, self.k = _unit_major(view.unit, n_units)
        self.solo = self._solo(corr, weight, columns) * view.uses
        precision = _inverse(corr)
        pad = columns < 0
        real = columns.clamp_min(0)
        self.P = precision[real][:, real].to(dtype)
        self.P[pad] = 0
        self.P[:, pad] = 0
        self.P[pad, pad] = 1
        self.B = weight[:, real].to(dtype)
        self.B[:, pad] = 0
        self.Z = self.B.clone()

    def _solo(
        self, corr: Float[Tensor, "d d"], weight: Float[Tensor, "r d"], columns: Int[Tensor, " uk"]
    ) -> Float[Tensor, " units"]:
        explained = weight @ corr
        noisy = explained @ weight.T
        noisy.diagonal().add_(1)
        solved = torch.linalg.solve(noisy, explained)
        pad = columns.view(-1, self.k) < 0
        real = columns.clamp_min(0).view(-1, self.k)
        before = corr[real.unsqueeze(2), real.unsqueeze(1)]
        gain = torch.einsum("rui,ruj->uij", explained[:, real], solved[:, real])
        hole = pad.unsqueeze(2) | pad.unsqueeze(1)
        eye = torch.eye(self.k, dtype=corr.dtype, device=corr.device)
        before = torch.where(hole, eye, before)
        after = torch.where(hole, eye, before - gain)
        return 0.5 * (torch.logdet(before) - torch.logdet(after)).clamp_min(0)

    def blocks(self, alive: int) -> tuple[Float[Tensor, "u k k"], Float[Tensor, "u k k"]]:
        """Diagonal blocks of P and of R = B^T inverse(C) B."""
        k = self.k
        p = self.P.view(alive, k, alive, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        b = self.B.view(-1, alive, k)
        z = self.Z.view(-1, alive, k)
        return p, torch.einsum("rui,ruj->uij", b, z)

    def downdate(self, gone: Int[Tensor, " u"], stay: Int[Tensor, " v"], alive: int) -> None:
        """Removes the units ``gone`` (positions among the alive) and drops their columns."""
        k = self.k
        steps = torch.arange(k, device=self.P.device)
        i = (gone.unsqueeze(1) * k + steps).flatten()
        s = (stay.unsqueeze(1) * k + steps).flatten()
        p_ss = self.P.view(alive, k, alive, k)[stay][:, :, stay].reshape(len(s), len(s))
        p_is = self.P[i][:, s]
        p_ii = self.P[i][:, i]
        b_i, z_i = self.B[:, i], self.Z[:, i]
        t = torch.linalg.solve(p_ii, p_is)
        self.P = p_ss.addmm_(p_is.T, t, alpha=-1)
        self.B = self.B[:, s].addmm_(b_i, t, alpha=-1)
        u = z_i.T @ self.B
        m_ii = p_ii + b_i.T @ z_i
        self.Z = self.Z[:, s].addmm_(z_i, t + torch.linalg.solve(m_ii, u), alpha=-1)

    def candidate(self, chosen: Int[Tensor, " u"]) -> "Candidates":
        """P and M = P + R of the chosen units alone, in float64."""
        steps = torch.arange(self.k, device=self.P.device)
        c = (chosen.unsqueeze(1) * self.k + steps).flatten()
        p = self.P[c][:, c].double()
        r = self.B[:, c].double().T @ self.Z[:, c].double()
        return Candidates(p.cpu(), (p + (r + r.T) / 2).cpu(), self.k, self.uses)


class Candidates:
    """The same elimination on a few candidate units: two Schur complements, exact among them.

    ``M = P + B^T inverse(C) B`` is the precision of the features given the consumer's output, so
    that Delta_i = 1/2 (logdet M_ii - logdet P_ii).
    """

    def __init__(
        self, p: Float[Tensor, "uk uk"], m: Float[Tensor, "uk uk"], k: int, uses: int
    ) -> None:
        self.p, self.m, self.k, self.uses = p, m, k, uses
        self.n = len(p) // k

    def nats(self) -> FloatArray:
        """Nats lost with each candidate; NaN for those already removed."""
        if self.k == 1:
            ratio = self.m.diagonal() / self.p.diagonal()
            return np.asarray(0.5 * self.uses * ratio.log().clamp_min(0))
        shape = (self.n, self.k, self.n, self.k)
        p = self.p.view(shape).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        m = self.m.view(shape).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        lost = 0.5 * self.uses * (_block_logdet(m) - _block_logdet(p))
        return np.asarray(lost.clamp_min(0))

    def remove(self, j: int) -> None:
        """Schur complements on candidate ``j``; its own block is left as the identity."""
        i = slice(j * self.k, (j + 1) * self.k)
        for x in (self.p, self.m):
            column = x[:, i].clone()
            x.sub_(column @ torch.linalg.solve(column[i], column.T))
            x[i] = 0
            x[:, i] = 0
            x[i, i] = torch.eye(self.k, dtype=x.dtype)


def whitened(
    weight: Float[Tensor, "m d"],
    view: ConsumerView,
    covariance: Float[Tensor, "d d"],
    scale: Float[Tensor, " d"],
    noise: float | str,
) -> Float[Tensor, "r d"]:
    """``weight`` (of the standardised features) in units in which the noise is the identity.

    ``r`` is at most ``min(m, d)``: directions that no noise-free loss sees are dropped.
    """
    if noise == "fisher":
        if view.fisher is None:
            raise InputError("noise='fisher' needs Fisher matrices, and none were captured.")
        values, vectors = torch.linalg.eigh(view.fisher.to(weight.dtype))
        seen = values > values[-1].clamp_min(0) * 1e-12
        white = (vectors[:, seen] * values[seen].sqrt()).T @ weight
    else:
        plain = weight / scale
        variance = torch.einsum("md,de,me->m", plain, covariance, plain)
        seen = variance > 0
        white = weight[seen] / (float(noise) * variance[seen]).sqrt().unsqueeze(1)
    if white.shape[0] > white.shape[1]:
        white = torch.linalg.qr(white, mode="r").R
    return white


def _unit_major(unit: Int[Tensor, " d"], n_units: int) -> tuple[Int[Tensor, " uk"], int]:
    """Columns in the order of units, ``k`` each, -1 where a unit has fewer; and ``k``."""
    counts = torch.bincount(unit[unit >= 0], minlength=n_units)
    k = max(1, int(counts.max()))
    columns = torch.full((n_units, k), -1, dtype=torch.int64, device=unit.device)
    order = torch.argsort(unit, stable=True)
    order = order[unit[order] >= 0]
    owner = unit[order]
    first = torch.cumsum(counts, 0) - counts
    columns[owner, torch.arange(len(order), device=unit.device) - first[owner]] = order
    return columns.flatten(), k


def _inverse(corr: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Inverse of a correlation matrix, with as much more ridge as it takes."""
    extra = 0.0
    for _ in range(12):
        root, fault = torch.linalg.cholesky_ex(corr)
        if int(fault) == 0:
            return torch.cholesky_inverse(root)
        more = max(10 * extra, 1e-8)
        corr.diagonal().add_(more - extra)
        extra = more
    raise InputError("The second moments are not positive semidefinite. Check the activations.")


def delta(p: Float[Tensor, "u k k"], r: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    """1/2 logdet(I + inverse(p) r) for each unit, exact also where r is far below p."""
    p, r = p.double(), r.double()
    if p.shape[-1] == 1:
        return 0.5 * torch.log1p((r / p).flatten().clamp_min(0))
    root, fault = torch.linalg.cholesky_ex(p)
    if bool((fault > 0).any()):
        jitter = 1e-6 * p.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        root = torch.linalg.cholesky_ex(p + jitter * torch.eye(p.shape[-1], dtype=p.dtype).to(p))[0]
    half = torch.linalg.solve_triangular(root, r, upper=False)
    both = torch.linalg.solve_triangular(root, half.mT, upper=False)
    values = torch.linalg.eigvalsh((both + both.mT) / 2)
    return 0.5 * torch.log1p(values.clamp_min(0)).sum(1)


def _block_logdet(blocks: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    root = torch.linalg.cholesky_ex(blocks)[0]
    return 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)


def _logdet_eye_plus(matrix: Float[Tensor, "r r"]) -> float:
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return float(torch.log1p(values.clamp_min(0)).sum())
