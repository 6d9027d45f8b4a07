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
    unit variance and no weight, which carry no information and change nothing. Columns of removed
    units stay, as zeros, until they are a seventh of all: copying the matrices costs more than
    carrying those along. Units are named by their position among those that are left.
    """

    def __init__(
        self,
        view: ConsumerView,
        n_units: int,
        noise: float | str,
        ridge: float,
        dtype: torch.dtype,
    ) -> None:
        self.uses = view.uses
        self._view, self._n_units, self._noise, self._ridge = view, n_units, noise, ridge
        columns, self.k = _unit_major(view.unit, n_units)
        corr, weight = self._standardised()
        explained = weight @ corr @ weight.T
        self.total = 0.5 * view.uses * _logdet_eye_plus(explained)
        precision = torch.cholesky_inverse(cholesky(corr))
        pad = columns < 0
        real = columns.clamp_min(0)
        self.P = precision[real][:, real].to(dtype)
        if bool(pad.any()):
            self.P[pad] = 0
            self.P[:, pad] = 0
            self.P[pad, pad] = 1
        self.B = weight[:, real].to(dtype)
        self.B[:, pad] = 0
        self.Z = self.B.clone()
        self._slots = torch.arange(n_units, device=self.P.device)

    def _standardised(self) -> tuple[Float[Tensor, "d d"], Float[Tensor, "r d"]]:
        """Correlations with the ridge, and the weight of the standardised features, whitened."""
        cov = self._view.covariance.double()
        scale = cov.diagonal().clamp_min(0).sqrt()
        # a constant feature has no variance left but the ridge
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        weight = whitened(self._view.weight.double() * scale, self._view, cov, scale, self._noise)
        corr = cov / scale
        corr /= scale.unsqueeze(1)
        corr.diagonal().add_(self._ridge)
        return corr, weight

    def solo(self) -> Float[Tensor, " units"]:
        """Nats that each unit of the full group transfers on its own."""
        corr, weight = self._standardised()
        columns, _ = _unit_major(self._view.unit, self._n_units)
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
        return 0.5 * self.uses * (torch.logdet(before) - torch.logdet(after)).clamp_min(0)

    def transfers(self, units: Int[Tensor, " u"]) -> float:
        """Nats that the units ``units`` of the full group transfer together, others as given."""
        corr, weight = self._standardised()
        owner = self._view.unit
        s = torch.isin(owner, units) | (owner < 0)
        across = weight @ corr[:, s]
        explained = across @ torch.linalg.solve(corr[s][:, s], across.T)
        whole = _logdet_eye_plus(weight @ corr @ weight.T)
        left = _logdet_eye_plus(weight @ corr @ weight.T - explained)
        return max(0.0, 0.5 * self.uses * (whole - left))

    def _columns(self, units: Int[Tensor, " u"]) -> Int[Tensor, " uk"]:
        steps = torch.arange(self.k, device=self.P.device)
        return (self._slots[units].unsqueeze(1) * self.k + steps).flatten()

    def blocks(self) -> tuple[Float[Tensor, "u k k"], Float[Tensor, "u k k"]]:
        """Diagonal blocks of P and of R = B^T inverse(C) B, of the units that are left."""
        n, k = len(self.P) // self.k, self.k
        p = self.P.view(n, k, n, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        if k == 1:  # einsum would transpose both matrices first
            r = torch.linalg.vecdot(self.B, self.Z, dim=0).view(n, 1, 1)
        else:
            r = torch.einsum("rui,ruj->uij", self.B.view(-1, n, k), self.Z.view(-1, n, k))
        return p[self._slots], r[self._slots]

    def downdate(self, gone: Int[Tensor, " u"]) -> None:
        """Removes the units ``gone``."""
        i = self._columns(gone)
        p_i = self.P[i]
        b_i, z_i = self.B[:, i], self.Z[:, i]
        m_ii = p_i[:, i] + b_i.T @ z_i
        t = torch.linalg.solve(p_i[:, i], p_i)
        self.P.addmm_(p_i.T, t, alpha=-1)
        self.B.addmm_(b_i, t, alpha=-1)
        u = z_i.T @ self.B
        self.Z.addmm_(z_i, t + torch.linalg.solve(m_ii, u), alpha=-1)
        stay = torch.ones(len(self._slots), dtype=torch.bool, device=self.P.device)
        stay[gone] = False
        self._slots = self._slots[stay]
        if 7 * len(self._slots) * self.k < 6 * len(self.P):
            left = self._columns(torch.arange(len(self._slots), device=self.P.device))
            self.P = self.P[left][:, left]
            self.B, self.Z = self.B[:, left], self.Z[:, left]
            self._slots = torch.arange(len(self._slots), device=self.P.device)

    def candidate(self, chosen: Int[Tensor, " u"]) -> "Candidates":
        """P and M = P + R of the chosen units alone, in float64."""
        c = self._columns(chosen)
        p = self.P[c][:, c].double()
        r = self.B[:, c].double().T @ self.Z[:, c].double()
        return Candidates(p.cpu(), (p + (r + r.T) / 2).cpu(), self.k, self.uses)


class Candidates:
    """The same elimination on a few candidate units: two Schur complements, exact among them.

    ``M = P + B^T inverse(C) B`` is the precision of the features given the consumer's output, so
    that Delta_i = 1/2 (logdet M_ii - logdet P_ii).
    """

    def __init__(
        self, p: Float[Tensor, "uk uk"], m: Float[Tensor, "uk uk"], k: int, uses: float | int
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
            if self.k == 1:
                x.addr_(column[:, 0], column[:, 0] / -column[j])
            else:
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
        fisher = view.fisher.to(weight.dtype)
        wide = weight.shape[0] > weight.shape[1]
        # the smaller of F and W^T F W is decomposed
        values, vectors = torch.linalg.eigh(weight.T @ fisher @ weight if wide else fisher)
        seen = values > values[-1:].clamp_min(0) * 1e-12
        white = (vectors[:, seen] * values[seen].sqrt()).T
        return white if wide else white @ weight
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


def cholesky(corr: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """Lower Cholesky factor of a correlation matrix, with as much more ridge as it takes."""
    extra = 0.0
    for _ in range(12):
        root, fault = torch.linalg.cholesky_ex(corr)
        if int(fault) == 0:
            return root
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
    root = torch.linalg.cholesky(
        (matrix + matrix.T) / 2 + torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    )
    return 2 * float(root.diagonal().log().sum())
