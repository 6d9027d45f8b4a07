"""Nats lost with a unit on rows held out of the fit: one estimate a fold.

Four folds of five fit a Gaussian: with ``P = inverse(Cov X)``, ``B`` the regression of the targets
on the units left and ``C`` its residual covariance, the fifth fold's rows cost

    L = 1/2 (logdet C + mean of e^T inverse(C) e),      e = Y - B X        nats, a constant aside

and an estimate is how much more they cost without the unit. Nothing is fitted again for that:

    B' = B - B_i T      C' = C + B_i inverse(P_ii) B_i^T      e' = e + B_i u
    T = inverse(P_ii) P_i:      u = T X       the part of unit i that others cannot predict

so that second moments of the fifth fold are enough, and each query is a correction of low rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import centred
from mipp.errors import InputError
from mipp.information.gaussian.standardised import cholesky
from mipp.information.views import Observations, example_of, real_targets
from mipp.records import FloatArray, IntArray

N_FOLDS = 5
"""The paper's number of estimates."""

_GONE = -2
"""Marks a removed column in place of its unit (-1 marks a feature that is always given)."""

_FLOOR = 1e-9
"""Share of each target's variance that is noise in any case: targets that follow exactly from
the features would make ``C`` singular. As in `mipp.information.views.second_moments`."""


class CrossValidated:
    """Five held-out estimates of the nats lost with each unit that is left.

    What it estimates: the mutual information between the targets and one unit, given the others,
    as the gain of the held-out log-likelihood of jointly Gaussian variables from the unit. Units:
    nats per example (``uses`` is multiplied in). Bias: downwards by what the unit's weights
    overfit, about ``k m / (2 rows fitted)`` a row for ``k`` features and ``m`` targets, so that a
    useless unit comes out slightly negative. The five share rows for the fit and are not
    independent. Fewer than about four rows per feature leave nothing but noise.

    Folds consist of whole examples. Targets without noise of their own (``view.noise > 0``) get
    noise drawn once: an estimate then says what an observer of that many noisy rows can know.
    Without it any weight that is not zero would surely transfer information.

    Memory: about ``80 d^2`` bytes for ``d`` features, in double precision.

    Args:
        view: Rows of one consumer.
        ridge: As in `mipp.Gaussian`: added to each feature's variance, as a share of it.
        seed: Of the folds and the noise.
        gone: Units that were removed before.
        consumer: Its number, so that no two consumers draw the same noise.

    Raises:
        InputError: There are fewer than five examples, or fewer rows than features.
    """

    def __init__(
        self, view: Observations, ridge: float, seed: int, gone: IntArray, consumer: int = 0
    ) -> None:
        self._uses = view.uses
        stays = ~torch.isin(view.unit, torch.as_tensor(gone, device=view.unit.device))
        x = _standardised(view.inputs[:, stays])
        y = real_targets(view)
        if view.noise > 0:
            drawn = torch.Generator().manual_seed((seed * 1_000_003 + consumer) % 2**63)
            noise = torch.randn(y.shape, generator=drawn, dtype=torch.float64)
            y = y + view.noise**0.5 * noise.to(y.device)
        y = _standardised(y)
        fold = _folds(example_of(view), seed)
        unit = view.unit[stays]
        fitted = round(len(x) * (1 - 1 / N_FOLDS))
        if fitted <= x.shape[1]:
            raise InputError(
                f"Four folds have {fitted} rows for {x.shape[1]} features; least squares needs "
                "more rows than features, and four times as many to be of use. Give more samples, "
                "or use estimator='masked'."
            )
        sums = [_Sums.of(x[fold == f], y[fold == f]) for f in range(N_FOLDS)]
        self._folds = [
            _Fold(_Sums.of_all([s for s in sums if s is not tested]), tested, unit, ridge)
            for tested in sums
        ]

    def estimates(self, unit: int) -> FloatArray:
        """Nats lost with this unit, one estimate a fold, shape ``(5,)``; can be below zero."""
        lost = torch.stack([fold.lost(unit) for fold in self._folds])
        return (self._uses * lost).cpu().numpy()

    def remove(self, unit: int) -> None:
        """Removes one unit."""
        for fold in self._folds:
            fold.remove(unit)


class _Sums:
    """Number of rows, and the sums of ``z`` and ``z z^T`` over them, for ``z = (x, y)``."""

    def __init__(self, rows: int, first: Float[Tensor, " z"], second: Float[Tensor, "z z"]) -> None:
        self.rows, self.first, self.second = rows, first, second

    @classmethod
    def of(cls, x: Float[Tensor, "rows d"], y: Float[Tensor, "rows m"]) -> "_Sums":
        z = torch.cat([x, y], 1)
        return cls(len(z), z.sum(0), z.T @ z)

    @classmethod
    def of_all(cls, parts: "Sequence[_Sums]") -> "_Sums":
        return cls(
            sum(part.rows for part in parts),
            torch.stack([part.first for part in parts]).sum(0),
            sum((part.second for part in parts[1:]), start=parts[0].second),
        )

    def about(self, centre: Float[Tensor, " z"]) -> Float[Tensor, "z z"]:
        """Second moments about ``centre``, which need not be the mean."""
        across = torch.outer(self.first / self.rows, centre)
        return self.second / self.rows - across - across.T + torch.outer(centre, centre)


@dataclass(frozen=True, eq=False)
class _Change:
    """The effect of removing one unit on a fold; names as at the top of the module.

    ``columns`` (k,) of the unit; ``t`` (k, d); ``tq = T E[x x^T]`` (k, d); ``eu = E[e u^T]``
    (m, k); ``uu = E[u u^T]``, ``p = P_ii`` and ``m = P_ii + B_i^T inverse(C) B_i`` (k, k).
    """

    columns: Int[Tensor, " k"]
    t: Float[Tensor, "k d"]
    tq: Float[Tensor, "k d"]
    eu: Float[Tensor, "m k"]
    uu: Float[Tensor, "k k"]
    p: Float[Tensor, "k k"]
    m: Float[Tensor, "k k"]


class _Fold:
    """A Gaussian fitted to some rows, and the moments of others under it, as units go.

    Targets are multiplied by ``C^(-1/2)`` once, so that ``C`` starts as the identity. ``P`` (d, d),
    ``B`` and ``Z = inverse(C) B`` (m, d) are of the fit; ``Q = E[x x^T]`` (d, d), ``G = E[e x^T]``
    (m, d) and ``R = E[e e^T]`` (m, m) of the rows held out, about the means of those fitted.
    """

    def __init__(self, fitted: _Sums, tested: _Sums, unit: Int[Tensor, " d"], ridge: float) -> None:
        d = len(unit)
        mean = fitted.first / fitted.rows
        seen, unseen = fitted.about(mean), tested.about(mean)
        seen.diagonal()[:d].add_(ridge)
        seen.diagonal()[d:].add_(_FLOOR)
        root = cholesky(seen[:d, :d].clone())
        half = torch.linalg.solve_triangular(root, seen[:d, d:], upper=False)
        self.unit = unit.clone()
        self.P = torch.cholesky_inverse(root)
        b = torch.linalg.solve_triangular(root.T, half, upper=True).T
        white = cholesky(seen[d:, d:] - half.T @ half)
        self.Q = unseen[:d, :d].clone()
        g = unseen[d:, :d] - b @ self.Q
        r = unseen[d:, d:] - b @ unseen[:d, d:] - g @ b.T

        def whitened(values: Tensor) -> Tensor:
            return torch.linalg.solve_triangular(white, values, upper=False)

        self.B, self.G = whitened(b), whitened(g)
        self.R = whitened(whitened(r).T)
        self.Z = self.B.clone()
        self._last: tuple[int, _Change] | None = None

    def lost(self, unit: int) -> Float[Tensor, ""]:
        """Additional nats that a row held out costs without the unit."""
        change = self._change(unit)
        z = self.Z[:, change.columns]
        j, s = change.m - change.p, change.uu
        once = z.T @ change.eu
        # tr(inverse(C') R') - tr(inverse(C) R), inverse(C') by the Woodbury identity
        spread = z.T @ self.R @ z + once @ j + j @ once.T + j @ s @ j
        fit = 2 * once.trace() + (j * s).sum() - torch.linalg.solve(change.m, spread).trace()
        return 0.5 * (torch.logdet(change.m) - torch.logdet(change.p) + fit)

    def remove(self, unit: int) -> None:
        """Removes one unit."""
        c = self._change(unit)
        i, self._last = c.columns, None
        b, z = self.B[:, i], self.Z[:, i]
        self.R += b @ c.eu.T + c.eu @ b.T + b @ c.uu @ b.T
        self.G.addmm_(b, c.tq)
        self.B.addmm_(b, c.t, alpha=-1)
        self.Z.addmm_(z, c.t + torch.linalg.solve(c.m, z.T @ self.B), alpha=-1)
        self.P.addmm_(self.P[:, i], c.t, alpha=-1)
        # the unit's own columns would keep rounding errors
        for matrix in (self.P, self.B, self.Z):
            matrix[:, i] = 0
        self.P[i] = 0
        self.unit[i] = _GONE
        left = self.unit != _GONE
        # copying the matrices costs more than carrying a few columns of zeros along
        if 7 * int(left.sum()) < 6 * len(left):
            self.unit = self.unit[left]
            self.P, self.Q = self.P[left][:, left], self.Q[left][:, left]
            self.B, self.Z, self.G = self.B[:, left], self.Z[:, left], self.G[:, left]

    def _change(self, unit: int) -> _Change:
        if self._last is not None and self._last[0] == unit:
            return self._last[1]
        i = torch.where(self.unit == unit)[0]
        rows = self.P[i]
        p = rows[:, i]
        t = torch.linalg.solve(p, rows)
        tq = t @ self.Q
        m = p + self.B[:, i].T @ self.Z[:, i]
        change = _Change(i, t, tq, self.G @ t.T, tq @ t.T, p, (m + m.T) / 2)
        self._last = unit, change
        return change


def _standardised(values: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d"]:
    """Centred, and of unit variance where there is any; over all folds, for the ridge alone."""
    varying = centred(values)
    scale = varying.square().mean(0).sqrt()
    return varying / torch.where(scale > 0, scale, torch.ones_like(scale))


def _folds(example: Int[Tensor, " rows"], seed: int) -> Int[Tensor, " rows"]:
    """The fold of each row; all rows of an example are in one."""
    names, number = torch.unique(example, return_inverse=True)
    if len(names) < N_FOLDS:
        raise InputError(
            f"The rows come from {len(names)} examples; five estimates need {N_FOLDS} at the "
            "least, and hundreds to be of use."
        )
    generator = torch.Generator().manual_seed(seed)
    place = torch.randperm(len(names), generator=generator).to(number.device)
    return place[number] % N_FOLDS
