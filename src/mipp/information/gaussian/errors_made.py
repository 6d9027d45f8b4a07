"""What removals have made a consumer's output lack, and the nats that are lost with it."""

import torch
from jaxtyping import Float
from torch import Tensor

from mipp.information.gaussian.candidates import positive
from mipp.information.gaussian.standardised import cholesky, logdet_eye_plus

FEW = 1 / 6
"""Columns of a removal, as a share of the outputs, up to which its nats are cheaper as a correction
of an inverse that is carried along than from all errors."""


class ErrorsMade:
    """Covariance E of a consumer's errors, in units of its noise: it has lost 1/2 log det(I + E).

    Removing units whose regression is ``b`` and whose precision is ``p`` adds
    ``b inverse(p) b^T = U U^T``, and with ``K = I + U^T inverse(I + E) U``

        log det(I + E + U U^T) = log det(I + E) + log det K
        inverse(I + E + U U^T) = inverse(I + E) (I - U inverse(K) U^T inverse(I + E))

    which a unit of few columns pays for with r² of them, and a factorisation with r³ / 3.
    """

    def __init__(self, matrix: Float[Tensor, "r r"]) -> None:
        self.matrix = matrix
        self._inverse: Tensor | None = None
        self._logdet: float | None = None
        self._few = False

    def add(self, b: Float[Tensor, "r k"], p: Float[Tensor, "k k"]) -> None:
        """The errors of a removal."""
        self._few = b.shape[1] <= FEW * len(b)
        root, fault = torch.linalg.cholesky_ex(p.double())
        if int(fault) != 0:
            root = torch.linalg.cholesky(positive(p.double().unsqueeze(0))[0])
        u = torch.linalg.solve_triangular(root, b.double().T, upper=False).T
        self.matrix.addmm_(u, u.T)
        if self._inverse is None or self._logdet is None or not self._few:
            self._inverse = self._logdet = None
            return
        solved = self._inverse @ u
        more, fault = torch.linalg.cholesky_ex(torch.eye(u.shape[1]).to(u) + u.T @ solved)
        if int(fault) != 0:  # rounding has had its way with the inverse
            self._inverse = self._logdet = None
            return
        self._logdet += 2 * float(more.diagonal().log().sum())
        half = torch.linalg.solve_triangular(more, solved.T, upper=False)
        self._inverse.addmm_(half.T, half, alpha=-1)

    def nats(self) -> float:
        """Nats that are lost."""
        if self._logdet is None:
            self._logdet = logdet_eye_plus(self.matrix)
            if self._few:
                self._inverse = torch.cholesky_inverse(self._root())
        return 0.5 * self._logdet

    def seen_through(self, b: Float[Tensor, "r k"]) -> Float[Tensor, "k k"]:
        """``b^T inverse(I + E) b``: what is left of a regression beside the errors there are."""
        if self._inverse is not None:
            return b.T @ self._inverse @ b
        half = torch.linalg.solve_triangular(self._root(), b, upper=False)
        return half.T @ half

    def _root(self) -> Float[Tensor, "r r"]:
        noisy = self.matrix.clone()
        noisy.diagonal().add_(1)
        return cholesky(noisy)
