"""One consumer's side of the Gaussian elimination: precision, regression, and their downdates."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import inverse_from
from mipp.information.gaussian.candidates import Candidates, SmallLosses, delta
from mipp.information.gaussian.errors_made import ErrorsMade
from mipp.information.gaussian.standardised import FeatureSpace, cholesky

RESOLVED = 1e5
"""Largest diagonal entry of a precision that float32 may hold: later entries are near one, and what
is left of such large ones has their rounding errors, of 1e-7 of them."""


def number_type(precision: Float[Tensor, "uk uk"], wanted: torch.dtype) -> torch.dtype:
    """float64 in place of float32 where features are nearly combinations of others."""
    large = bool((precision.diagonal() > RESOLVED).any())
    return torch.float64 if large else wanted


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
        P = inverse_from(cholesky(space.matrix))
        dtype = number_type(P, dtype)
        P, B = P.to(dtype), weight.to(dtype)
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
        p_i, b_i = self.P.index_select(0, i), self.B.index_select(1, i)
        z_i = None if self._z is None else self._z.index_select(1, i)
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
            self.P = self.P[left.unsqueeze(1), left]
            self.B = self.B.index_select(1, left)
            self._z = None if self._z is None else self._z.index_select(1, left)
            self._slots = torch.arange(len(self._slots), device=self.P.device)
        return self

    def candidate(self, chosen: Int[Tensor, " u"], most: int) -> Candidates | SmallLosses:
        """P and R of the chosen units alone, in float64, of which ``most`` are to be removed."""
        c = self._columns(chosen)
        p = self.P[c.unsqueeze(1), c].double()
        b = self.B.index_select(1, c).double()
        r = b.T @ (b if self._z is None else self._z.index_select(1, c).double())
        if self._z is None:
            return SmallLosses(p.cpu(), r.cpu(), self.k, self.uses, most)
        return Candidates(p.cpu(), (p + (r + r.T) / 2).cpu(), self.k, self.uses, most)

    def nats_of(self, unit: Int[Tensor, " 1"]) -> float:
        """Nats that would be lost with one unit now."""
        c = self._columns(unit)
        p, b = self.P[c.unsqueeze(1), c].double(), self.B[:, c].double()
        return self.uses * float(delta(p.unsqueeze(0), self._errors.seen_through(b).unsqueeze(0)))
