"""A few candidate units within a round of the elimination, scored again after each removal.

A removal changes every entry of a matrix, and only one column and the diagonal blocks are read
before the next. So columns are corrected for all removals before when their turn comes, as in a
factorisation that looks to the left (Golub and Van Loan 2013, *Matrix Computations*, section 4.2).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mipp.records import FloatArray


class _Precision:
    """A symmetric matrix, of which units are removed: Schur complements of what is left.

    Attributes:
        blocks: Diagonal blocks now; those of removed units are the identity.
    """

    def __init__(self, matrix: Float[Tensor, "uk uk"], k: int, most: int) -> None:
        self._matrix, self._k, self._n = matrix, k, 0
        self.blocks = _diagonal_blocks(matrix, k)
        self._rows = matrix.new_empty(most * k, len(matrix))
        self._solved = torch.empty_like(self._rows)

    @property
    def solved(self) -> Float[Tensor, "gone uk"]:
        """``inverse(P_jj) P_j:`` of the units that are gone, each from before its removal."""
        return self._solved[: self._n * self._k]

    def remove(self, j: int) -> None:
        """Removes unit ``j``."""
        k, done, i = self._k, slice(self._n * self._k), slice(j * self._k, (j + 1) * self._k)
        rows = self._matrix[i] - self.solved[:, i].T @ self._rows[done]
        block = rows[:, i].clone()
        solved = rows / block if k == 1 else torch.linalg.solve(block, rows)
        new = slice(done.stop, done.stop + k)
        self._rows[new], self._solved[new] = rows, solved
        self._n += 1
        self.blocks -= _products(rows, solved, k)
        self.blocks[j] = torch.eye(k, dtype=rows.dtype)


def _diagonal_blocks(matrix: Float[Tensor, "uk uk"], k: int) -> Float[Tensor, "u k k"]:
    n = len(matrix) // k
    return matrix.view(n, k, n, k).diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()


def _products(a: Float[Tensor, "r uk"], b: Float[Tensor, "r uk"], k: int) -> Float[Tensor, "u k k"]:
    """Diagonal blocks of ``a^T b``."""
    if k == 1:
        return (a * b).sum(0).view(-1, 1, 1)
    return a.view(len(a), -1, k).permute(1, 2, 0) @ b.view(len(b), -1, k).movedim(0, 1)


class SmallLosses:
    """The elimination of a few candidate units where losses are small next to the noise.

    With ``R = B^T B`` a unit costs ``Delta_i = 1/2 trace(inverse(P_ii) R_ii)``; removing it changes
    P by a Schur complement, and B by ``B_i T`` with ``T = inverse(P_ii) P_i:``, so that R loses
    ``T^T H + H^T T`` with ``H = R_i: - R_ii T / 2``.

    Args:
        p: P of the candidates.
        r: R of the candidates.
        k: Columns of a unit.
        uses: How often the consumer is used.
        most: Units that are removed at most.
    """

    def __init__(
        self,
        p: Float[Tensor, "uk uk"],
        r: Float[Tensor, "uk uk"],
        k: int,
        uses: float | int,
        most: int,
    ) -> None:
        self._p, self._r, self._k, self._uses = _Precision(p, k, most), r, k, uses
        self._r_blocks = _diagonal_blocks(r, k)
        self._h = r.new_empty(most * k, len(r))

    def nats(self) -> FloatArray:
        """Nats lost with each candidate; 0 for those already removed."""
        return np.asarray(self._uses * squared_errors(self._p.blocks, self._r_blocks))

    def remove(self, j: int) -> None:
        """Removes candidate ``j``."""
        k, i, t = self._k, slice(j * self._k, (j + 1) * self._k), self._p.solved
        done = len(t)
        h = self._h[:done]
        r = self._r[i] - t[:, i].T @ h - h[:, i].T @ t
        self._p.remove(j)
        t = self._p.solved[done:]
        self._h[done : done + k] = h = r - r[:, i] @ t / 2
        both = _products(t, h, k)
        self._r_blocks -= both + both.mT
        self._r_blocks[j] = 0


class Candidates:
    """The same elimination on a few candidate units, exact among them: two Schur complements.

    ``M = P + B^T inverse(C) B`` is the precision of the features given the consumer's output, so
    that Delta_i = 1/2 (logdet M_ii - logdet P_ii). Arguments are those of `SmallLosses`.
    """

    def __init__(
        self,
        p: Float[Tensor, "uk uk"],
        m: Float[Tensor, "uk uk"],
        k: int,
        uses: float | int,
        most: int,
    ) -> None:
        self._p, self._m, self._uses = _Precision(p, k, most), _Precision(m, k, most), uses

    def nats(self) -> FloatArray:
        """Nats lost with each candidate; 0 for those already removed."""
        lost = 0.5 * (_block_logdet(self._m.blocks) - _block_logdet(self._p.blocks))
        return np.asarray(self._uses * lost.clamp_min(0))

    def remove(self, j: int) -> None:
        """Removes candidate ``j``."""
        self._p.remove(j)
        self._m.remove(j)


def squared_errors(p: Float[Tensor, "u k k"], r: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    """1/2 trace(inverse(p) r) for each unit: what `delta` is where it is small."""
    p, r = p.double(), r.double()
    if p.shape[-1] == 1:
        return 0.5 * (r / p).flatten().clamp_min(0)
    root, fault = torch.linalg.cholesky_ex(p)
    if bool((fault > 0).any()):
        root[fault > 0] = torch.linalg.cholesky_ex(positive(p[fault > 0]))[0]
    return 0.5 * _trace(torch.cholesky_solve(r, root)).clamp_min(0)


def delta(p: Float[Tensor, "u k k"], r: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    """1/2 logdet(I + inverse(p) r) for each unit, exact also where r is far below p."""
    p, r = p.double(), r.double()
    if p.shape[-1] == 1:
        return 0.5 * torch.log1p((r / p).flatten().clamp_min(0))
    root, fault = torch.linalg.cholesky_ex(p)
    if bool((fault > 0).any()):
        root[fault > 0] = torch.linalg.cholesky_ex(positive(p[fault > 0]))[0]
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


def _trace(blocks: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    return blocks.diagonal(dim1=1, dim2=2).sum(1)


SMALL = 1e-4
"""Trace of a matrix A below which log det(I + A) is summed as a series: three terms are exact to
a relative error of 1e-12."""

RESOLUTION = 1e-7
"""Share of the largest eigenvalue of a block below which float32 does not resolve the others."""


def positive(blocks: Float[Tensor, "u k k"]) -> Float[Tensor, "u k k"]:
    """Blocks that rounding has made indefinite, with eigenvalues raised to the rounding error.

    One that has become negative was smaller than that error.
    """
    values, vectors = torch.linalg.eigh((blocks + blocks.mT) / 2)
    error = RESOLUTION * values.abs().amax(1) + values[:, 0].clamp_max(0).abs()
    floor = error.clamp_min(torch.finfo(values.dtype).eps).unsqueeze(1)
    return (vectors * torch.maximum(values, floor).unsqueeze(1)) @ vectors.mT


def _block_logdet(blocks: Float[Tensor, "u k k"]) -> Float[Tensor, " u"]:
    if blocks.shape[-1] == 1:
        return blocks.flatten().clamp_min(torch.finfo(blocks.dtype).tiny).log()
    root, fault = torch.linalg.cholesky_ex(blocks)
    if bool((fault > 0).any()):
        root[fault > 0] = torch.linalg.cholesky_ex(positive(blocks[fault > 0]))[0]
    return 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
