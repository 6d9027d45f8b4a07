"""One consumer's side of the Gaussian elimination: precision, regression, and their downdates."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import inverse_from
from mipp.information.gaussian.errors_made import ErrorsMade
from mipp.information.gaussian.standardised import FeatureSpace, cholesky
from mipp.records import FloatArray


class State:
    """One consumer during the elimination: precision P, regression B, Z = inverse(C) B, unit-major.

    Where losses are small next to the noise, C stays what the noise is, the identity, so that Z is
    B, and log(1 + x) is x: units are compared by their squared errors. What has been lost is known
    exactly all the same, from the covariance of the errors (`lost`).

    Every unit has ``k`` columns. Units with fewer features are padded with independent features of
    unit variance and no weight, which carry no information and change nothing. Columns of removed
    units stay, as zeros, until they are a seventh of all: copying the matrices costs more than
    carrying them along. Units are numbered by their position among those that are left.
    """

    def __init__(
        self,
        P: Float[Tensor, "uk uk"],
        B: Float[Tensor, "r uk"],
        Z: Float[Tensor, "r uk"] | None,
        k: int,
        uses: float | int,
        errors: Float[Tensor, "r r"] | None = None,
    ) -> None:
        self.P, self.B, self.k, self.uses = P, B, k, uses
        self._z = Z
        """None for small losses."""
        made = errors if errors is not None else P.new_zeros(len(B), len(B)).double()
        self._errors = ErrorsMade(made)
        self._slots = torch.arange(len(P) // k, device=P.device)

    @classmethod
    def of_all(
        cls,
        space: FeatureSpace,
        weight: Float[Tensor, "r d"],
        columns: Int[Tensor, "u k"],
        uses: float | int,
        dtype: torch.dtype,
        *,
        small: bool = False,
    ) -> "State":
        """No unit removed; ``columns`` of a unit end in -1 where it has fewer than ``k``."""
        P = inverse_from(cholesky(space.matrix)).to(dtype)
        B = weight.to(dtype)
        k, flat = columns.shape[1], columns.flatten()
        pad, real = flat < 0, flat.clamp_min(0)
        if not torch.equal(flat, torch.arange(len(P), device=flat.device)):
            P, B = P[real][:, real], B[:, real]
        if bool(pad.any()):
            P[pad] = 0
            P[:, pad] = 0
            P[pad, pad] = 1
            B[:, pad] = 0
        return cls(P, B, None if small else B.clone(), k, uses)

    @property
    def small(self) -> bool:
        """Whether losses are small next to the noise."""
        return self._z is None

    @property
    def scaled(self) -> Float[Tensor, "r uk"]:
        """inverse(C) B."""
        return self.B if self._z is None else self._z

    def lost(self) -> float:
        """Nats that are lost without the units that are gone."""
        return self.uses * self._errors.nats()

    @property
    def device(self) -> torch.device:
        """Where the matrices are."""
        return self.P.device

    def _columns(self, units: Int[Tensor, " u"]) -> Int[Tensor, " uk"]:
        steps = torch.arange(self.k, device=self.P.device)
        return (self._slots[units].unsqueeze(1) * self.k + steps).flatten()

    def blocks(self) -> tuple[Float[Tensor, "u k k"], Float[Tensor, "u k k"]]:
        """Diagonal blocks of P and of R = B^T inverse(C) B, of the units that are left."""
        n, k = len(self.P) // self.k, self.k
        p = self.P.view(n, k, n, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        if k == 1:  # einsum would transpose both matrices first
            r = torch.linalg.vecdot(self.B, self.scaled, dim=0).view(n, 1, 1)
        else:
            r = torch.einsum(
                "rui,ruj->uij", self.B.view(len(self.B), n, k), self.scaled.view(len(self.B), n, k)
            )
        return p[self._slots], r[self._slots]

    def downdate(self, gone: Int[Tensor, " u"]) -> "State":
        """Removes the units ``gone``, in place, and returns the state to go on with: this one."""
        i = self._columns(gone)
        p_i = self.P[i]
        b_i, z_i = self.B[:, i], None if self._z is None else self._z[:, i]
        t = torch.linalg.solve(p_i[:, i], p_i)
        self._errors.add(b_i, p_i[:, i])
        self.P.addmm_(p_i.T, t, alpha=-1)
        self.B.addmm_(b_i, t, alpha=-1)
        if self._z is not None and z_i is not None:
            m_ii = p_i[:, i] + b_i.T @ z_i
            u = z_i.T @ self.B
            self._z.addmm_(z_i, t + torch.linalg.solve(m_ii, u), alpha=-1)
        stay = torch.ones(len(self._slots), dtype=torch.bool, device=self.P.device)
        stay[gone] = False
        self._slots = self._slots[stay]
        if 7 * len(self._slots) * self.k < 6 * len(self.P):
            left = self._columns(torch.arange(len(self._slots), device=self.P.device))
            self.P = self.P[left][:, left]
            self.B = self.B[:, left]
            self._z = None if self._z is None else self._z[:, left]
            self._slots = torch.arange(len(self._slots), device=self.P.device)
        return self

    def candidate(self, chosen: Int[Tensor, " u"]) -> "Candidates | SmallLosses":
        """P and R of the chosen units alone, in float64."""
        c = self._columns(chosen)
        p = self.P[c][:, c].double()
        r = self.B[:, c].double().T @ self.scaled[:, c].double()
        if self._z is None:
            return SmallLosses(p.cpu(), r.cpu(), self.k, self.uses)
        return Candidates(p.cpu(), (p + (r + r.T) / 2).cpu(), self.k, self.uses)

    def nats_of(self, unit: Int[Tensor, " 1"]) -> float:
        """Nats that would be lost with one unit now."""
        c = self._columns(unit)
        p, b = self.P[c][:, c].double(), self.B[:, c].double()
        return self.uses * float(delta(p.unsqueeze(0), self._errors.seen_through(b).unsqueeze(0)))


class SmallLosses:
    """The elimination of a few candidate units where losses are small next to the noise.

    With ``R = B^T B`` a unit costs ``Delta_i = 1/2 trace(inverse(P_ii) R_ii)``; removing it changes
    P by a Schur complement, and B by ``B_i T`` with ``T = inverse(P_ii) P_i:``, so that R loses
    ``T^T H + H^T T`` with ``H = R_i: - R_ii T / 2``.
    """

    def __init__(
        self, p: Float[Tensor, "uk uk"], r: Float[Tensor, "uk uk"], k: int, uses: float | int
    ) -> None:
        self.p, self.r, self.k, self.uses = p, r, k, uses
        self.n = len(p) // k

    def nats(self) -> FloatArray:
        """Nats lost with each candidate; 0 for those already removed."""
        if self.k == 1:
            ratio = self.r.diagonal() / self.p.diagonal()
            return np.asarray(0.5 * self.uses * ratio.clamp_min(0))
        shape = (self.n, self.k, self.n, self.k)
        p = self.p.view(shape).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        r = self.r.view(shape).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        return np.asarray(self.uses * squared_errors(p, r))

    def remove(self, j: int) -> None:
        """Removes candidate ``j``; its own block of P is left as the identity."""
        i = slice(j * self.k, (j + 1) * self.k)
        p = self.p[i].clone()
        t = _solved(p[:, i], p)
        h = self.r[i] - self.r[i, i] @ t / 2
        self.r.addmm_(torch.cat([t, h]).T, torch.cat([h, t]), alpha=-1)
        self.p.addmm_(p.T, t, alpha=-1)
        for x in (self.p, self.r):
            x[i] = 0
            x[:, i] = 0
        self.p[i, i] = torch.eye(self.k, dtype=p.dtype)


def squared_errors(p: Float[Tensor, "u k k"], r: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    """1/2 trace(inverse(p) r) for each unit: what `delta` is where it is small."""
    p, r = p.double(), r.double()
    if p.shape[-1] == 1:
        return 0.5 * (r / p).flatten().clamp_min(0)
    root, fault = torch.linalg.cholesky_ex(p)
    if bool((fault > 0).any()):
        root[fault > 0] = torch.linalg.cholesky_ex(_positive(p[fault > 0]))[0]
    return 0.5 * _trace(torch.cholesky_solve(r, root)).clamp_min(0)


class Candidates:
    """The same elimination on a few candidate units, exact among them: two Schur complements.

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
            x.addmm_(column, _solved(column[i], column.T), alpha=-1)
            x[i] = 0
            x[:, i] = 0
            x[i, i] = torch.eye(self.k, dtype=x.dtype)


def delta(p: Float[Tensor, "u k k"], r: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    """1/2 logdet(I + inverse(p) r) for each unit, exact also where r is far below p."""
    p, r = p.double(), r.double()
    if p.shape[-1] == 1:
        return 0.5 * torch.log1p((r / p).flatten().clamp_min(0))
    root, fault = torch.linalg.cholesky_ex(p)
    if bool((fault > 0).any()):
        root[fault > 0] = torch.linalg.cholesky_ex(_positive(p[fault > 0]))[0]
    half = torch.linalg.solve_triangular(root, r, upper=False)
    both = torch.linalg.solve_triangular(root, half.mT, upper=False)
    both = (both + both.mT) / 2
    # near 1 a determinant has lost the digits of its difference from 1
    square = both @ both
    nats = _trace(both) - _trace(square) / 2 + (square * both).sum((1, 2)) / 3
    large = _trace(both) >= SMALL
    if bool(large.any()):
        eye = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        nats[large] = _block_logdet(eye + both[large])
    return 0.5 * nats.clamp_min(0)


def _solved(block: Float[Tensor, "k k"], rows: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
    """``inverse(block) @ rows``."""
    return rows / block if len(block) == 1 else torch.linalg.solve(block, rows)


def _trace(blocks: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    return blocks.diagonal(dim1=1, dim2=2).sum(1)


SMALL = 1e-4
"""Trace of a matrix A below which log det(I + A) is summed as a series: three terms are exact to
a relative error of 1e-12."""

RESOLUTION = 1e-7
"""Share of the largest eigenvalue of a block below which float32 does not resolve the others."""


def _positive(blocks: Float[Tensor, "u k k"]) -> Float[Tensor, "u k k"]:
    """The blocks, with eigenvalues that rounding has made too small raised to the resolution."""
    values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
    floor = (RESOLUTION * values[:, -1:]).clamp_min(torch.finfo(values.dtype).tiny)
    return (vectors * torch.maximum(values, floor).unsqueeze(1)) @ vectors.mT


def _block_logdet(blocks: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    root, fault = torch.linalg.cholesky_ex(blocks)
    if bool((fault > 0).any()):
        root[fault > 0] = torch.linalg.cholesky_ex(_positive(blocks[fault > 0]))[0]
    return 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
