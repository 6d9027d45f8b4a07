"""One consumer's side of the Gaussian elimination where rows are far fewer than features.

The covariance of ``n`` rows has rank ``n``; the rest of it is the ridge. With S the units that are
left, R those removed, the rows ``Z`` (n, d) and the weight ``W`` in units of the noise,

    K = ridge I + Z_S Z_S^T        E = W_R Z_R^T                                    (n, n), (r, n)
    P = (I - Z_S^T inverse(K) Z_S) / ridge                    precision of what is left
    B = W_S + E inverse(K) Z_S                                regression on it
    C = I + ridge (W_R W_R^T + E inverse(K) E^T)              its residual, noise included

so nothing of the size of the covariance is ever formed. Removing units changes K, E and
``W_R W_R^T`` by their own columns. Once fewer features than rows are left, `State` takes over.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.information.gaussian.candidates import Candidates, SmallLosses, delta
from mipp.information.gaussian.downdate import State, number_type
from mipp.information.gaussian.standardised import RowSpace, cholesky


class RowState:
    """The elimination in row space, with the methods of `State`.

    Padded columns of units with fewer than ``k`` features are zero in ``Z`` and ``W``. Features of
    other groups, which stay known, are part of ``K`` from the start.
    """

    def __init__(
        self,
        space: RowSpace,
        weight: Float[Tensor, "r d"],
        columns: Int[Tensor, "u k"],
        uses: float | int,
        dtype: torch.dtype,
        *,
        small: bool = False,
    ) -> None:
        self.uses, self.k, self.ridge, self.small = uses, columns.shape[1], space.ridge, small
        self._dtype = dtype
        others = torch.ones(space.rows.shape[1], dtype=torch.bool, device=columns.device)
        others[columns[columns >= 0]] = False
        self._others = space.rows[:, others]
        flat = columns.flatten()
        self._rows = _unit_major(space.rows, flat)
        self._weight = _unit_major(weight, flat)
        self._left = torch.arange(len(columns), device=columns.device)
        n, r = len(space.rows), len(weight)
        self._across = space.rows.new_zeros(r, n)
        self._removed = space.rows.new_zeros(r, r)
        self._gather()

    @property
    def device(self) -> torch.device:
        """Where the matrices are."""
        return self._rows.device

    def _columns(self, units: Int[Tensor, " u"]) -> Int[Tensor, " uk"]:
        steps = torch.arange(self.k, device=self.device)
        return (self._left[units].unsqueeze(1) * self.k + steps).flatten()

    def _everything(self) -> Int[Tensor, " uk"]:
        return self._columns(torch.arange(len(self._left), device=self.device))

    def _gather(self) -> None:
        """Drops the columns of removed units, and computes K from scratch."""
        columns = self._everything()
        self._rows, self._weight = self._rows[:, columns], self._weight[:, columns]
        self._left = torch.arange(len(self._left), device=self.device)
        # all units are scored in the precision that `State` has, candidates in double
        self._rough = self._rows.to(self._dtype), self._weight.to(self._dtype)
        self._gram = self._rows @ self._rows.T + self._others @ self._others.T
        self._gram.diagonal().add_(self.ridge)
        self._refresh()

    def _refresh(self) -> None:
        """The factors of K and C."""
        self._root = cholesky(self._gram.clone())
        self._half = torch.linalg.solve_triangular(self._root, self._across.T, upper=False)
        self.errors = self.ridge * (self._removed + self._half.T @ self._half)
        noisy = self.errors.clone()
        noisy.diagonal().add_(1)
        self._noise_root = cholesky(noisy)

    def _seen(
        self, rows: Float[Tensor, "n c"], weight: Float[Tensor, "r c"]
    ) -> tuple[Float[Tensor, "n c"], Float[Tensor, "r c"], Float[Tensor, "r c"]]:
        """``V`` with ``P = (I - V^T V) / ridge``, ``B``, and ``U`` with ``U^T U = R``."""
        v = _inverse(self._root).to(rows.dtype) @ rows
        b = weight + self._half.T.to(rows.dtype) @ v
        return v, b, b if self.small else _inverse(self._noise_root).to(rows.dtype) @ b

    def lost(self) -> float:
        """Nats that are lost without the units that are gone."""
        return self.uses * float(self._noise_root.diagonal().log().sum())

    def nats_of(self, unit: Int[Tensor, " 1"]) -> float:
        """Nats that would be lost with one unit now."""
        columns = self._columns(unit)
        v, b, _ = self._seen(self._rows[:, columns], self._weight[:, columns])
        eye = torch.eye(v.shape[1], dtype=v.dtype, device=v.device)
        p = (eye - v.T @ v) / self.ridge
        half = torch.linalg.solve_triangular(self._noise_root, b, upper=False)
        return self.uses * float(delta(p.unsqueeze(0), (half.T @ half).unsqueeze(0)))

    def blocks(self) -> tuple[Float[Tensor, "u k k"], Float[Tensor, "u k k"]]:
        """Diagonal blocks of P and of R = B^T inverse(C) B, of the units that are left."""
        columns = self._everything()
        whole = len(columns) == self._rows.shape[1]
        rows, weight = self._rough if whole else (x[:, columns] for x in self._rough)
        v, _, u = self._seen(rows, weight)
        v = v.view(len(v), len(self._left), self.k).movedim(1, 0)
        u = u.view(len(u), len(self._left), self.k).movedim(1, 0)
        eye = torch.eye(self.k, dtype=v.dtype, device=v.device)
        return (eye - v.mT @ v) / self.ridge, u.mT @ u

    def candidate(self, chosen: Int[Tensor, " u"], most: int) -> Candidates | SmallLosses:
        """P and R of the chosen units alone, in float64, of which ``most`` are to be removed."""
        columns = self._columns(chosen)
        v, _, u = self._seen(self._rows[:, columns], self._weight[:, columns])
        eye = torch.eye(v.shape[1], dtype=v.dtype, device=v.device)
        p = (eye - v.T @ v) / self.ridge
        if self.small:
            return SmallLosses(p.cpu(), (u.T @ u).cpu(), self.k, self.uses, most)
        return Candidates(p.cpu(), (p + u.T @ u).cpu(), self.k, self.uses, most)

    def downdate(self, gone: Int[Tensor, " u"]) -> "RowState | State":
        """Removes the units ``gone`` and returns the state to go on with."""
        columns = self._columns(gone)
        rows, weight = self._rows[:, columns], self._weight[:, columns]
        self._across += weight @ rows.T
        self._removed += weight @ weight.T
        self._gram -= rows @ rows.T
        stay = torch.ones(len(self._left), dtype=torch.bool, device=self.device)
        stay[gone] = False
        self._left = self._left[stay]
        features = len(self._left) * self.k + self._others.shape[1]
        if features < len(self._rows) or 7 * len(self._left) * self.k < 6 * self._rows.shape[1]:
            self._gather()
        else:
            self._refresh()
        return self if features >= len(self._rows) else self._in_feature_space()

    def _in_feature_space(self) -> State:
        """The same state as matrices of the features that are left."""
        known = torch.cat([self._rows, self._others], 1)
        moments = known.T @ known
        moments.diagonal().add_(self.ridge)
        # padded columns are zero: they have the ridge alone, and no weight, so they do not matter
        own = self._rows.shape[1]
        P = torch.cholesky_inverse(cholesky(moments))[:own, :own]
        _, B, U = self._seen(self._rows, self._weight)
        dtype, Z = number_type(P, self._dtype), None
        if not self.small:
            Z = torch.linalg.solve_triangular(self._noise_root.T, U, upper=True).to(dtype)
        P, B = P.to(dtype).contiguous(), B.to(dtype)
        return State(P, B, Z, self.k, self.uses, self.errors)


def _inverse(root: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Inverse of a lower triangle: multiplying by it is many times faster than solving."""
    eye = torch.eye(len(root), dtype=root.dtype, device=root.device)
    return torch.linalg.solve_triangular(root, eye, upper=False)


def _unit_major(values: Float[Tensor, "n d"], columns: Int[Tensor, " uk"]) -> Float[Tensor, "n uk"]:
    """The columns in the order of units, zero where a unit has none."""
    pad: Bool[Tensor, " uk"] = columns < 0
    found = values[:, columns.clamp_min(0)]
    found[:, pad] = 0
    return found
