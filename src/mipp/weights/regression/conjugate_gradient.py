"""Least-squares weights of all rows at once, approximately, by conjugate gradients.

Each row reads inputs of its own, but all rows share one matrix of correlations, and a step for all
of them is one product with it. Inputs of a layer mostly share a few strong directions, which make
plain conjugate gradients slow. So steps are preconditioned by those directions and the remaining
variance of each input: a matrix of low rank plus a diagonal. Restricted to any row's inputs it is
inverted by Woodbury's formula, with one small system for each row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.retrain.numerics import numerics_for

DIRECTIONS = 32
"""Most directions of a row's small system."""

FEW = 8
"""Fewest inputs for each direction."""

BESIDE = 0.02
"""Smallest variance of a standardised input that the directions leave."""

_POWERS = 3
"""Subspace iterations after the first."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The strongest directions of the inputs, and the variance of each input that they leave.

    Attributes:
        strength: Eigenvalues, shape ``(r,)``.
        along: Eigenvectors, shape ``(d, r)``.
        across: Eigenvectors, divided by ``beside``, shape ``(d, r)``.
        beside: Variance of each input that the directions leave, shape ``(d,)``.
        pairs: What an input in the mask adds to each entry of a row's system, shape
            ``(r * (r + 1) / 2, d)``.
        first: Row of each entry in the system.
        second: Column of each entry in the system.
    """

    strength: Float[Tensor, " r"]
    along: Float[Tensor, "d r"]
    across: Float[Tensor, "d r"]
    beside: Float[Tensor, " d"]
    pairs: Float[Tensor, "p d"]
    first: Int[Tensor, " p"]
    second: Int[Tensor, " p"]

    @classmethod
    def of(cls, correlation: Float[Tensor, "d d"]) -> "Directions":
        """Found by subspace iteration; deterministic for a given matrix."""
        d = len(correlation)
        n = min(DIRECTIONS, d // FEW)
        generator = torch.Generator().manual_seed(0)
        guess = torch.randn(d, min(d, n + FEW), generator=generator).to(correlation)
        for _ in range(_POWERS + 1):
            guess = torch.linalg.qr(correlation @ guess)[0]
        strength, turn = torch.linalg.eigh(guess.T @ correlation @ guess)
        strength = strength[len(strength) - n :].clamp_min(BESIDE)
        along = (guess @ turn)[:, guess.shape[1] - n :]
        beside = (correlation.diagonal() - along.square() @ strength).clamp_min(BESIDE)
        across = along / beside.unsqueeze(1)
        first, second = torch.tril_indices(n, n, device=correlation.device)
        pairs = (along[:, first] * across[:, second]).T
        return cls(strength, along, across, beside, pairs, first, second)

    def shared(self, values: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        """What the directions alone make of weights: their covariance with every input."""
        return (values @ self.along).mul_(self.strength) @ self.along.T

    def within(
        self, inside: Float[Tensor, "m d"]
    ) -> Callable[[Float[Tensor, "m d"]], Float[Tensor, "m d"]]:
        """The inverse of ``diag(beside) + directions``, restricted to each row's inputs.

        Args:
            inside: 1 for the inputs of a row, 0 elsewhere.

        Returns:
            A function that changes its argument in place, and gives it back.
        """
        n = len(self.strength)
        system = self.pairs.new_zeros(len(inside), n, n)
        flat = inside @ self.pairs.T
        system[:, self.first, self.second] = flat
        system[:, self.second, self.first] = flat
        system.diagonal(dim1=1, dim2=2).add_(1 / self.strength)
        root = torch.linalg.cholesky(system)

        def applied(values: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
            small = torch.cholesky_solve((values @ self.across).unsqueeze(2), root).squeeze(2)
            return values.div_(self.beside).addmm_(small, self.across.T, alpha=-1).mul_(inside)

        return applied


def coarse_type(values: Tensor) -> torch.dtype:
    """The number type of products that may be coarse: bfloat16 where that is faster."""
    fast = numerics_for(values.device, "auto", "auto").precision == "bfloat16"
    return torch.bfloat16 if fast and values.dtype == torch.float32 else values.dtype


def descent(
    correlation: Float[Tensor, "d d"],
    directions: Directions,
    weight: Float[Tensor, "m d"],
    target: Float[Tensor, "m d"],
    mask: Bool[Tensor, "m d"],
    steps: int,
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]]:
    """Conjugate-gradient steps from ``weight`` towards the best weights on the mask.

    Weights outside of the mask are removed first, and those in it take over what they did, as far
    as the directions say. That takes no product with the whole matrix.

    Args:
        correlation: Of the inputs, in the weights' own number type or a coarser one.
        directions: The preconditioner.
        weight: Of standardised inputs.
        target: Covariance of standardised inputs with the outputs.
        mask: The inputs that each row keeps.
        steps: Number of steps.

    Returns:
        The new weights, and the covariance of all inputs, in the mask or not, with what these leave
        unexplained.
    """
    # products with masks of numbers take an eighth of the time of those with booleans, and tensors
    # of this size are changed in place: making new ones takes as long as the arithmetic
    inside = mask.to(weight.dtype)
    inverse, product = directions.within(inside), Product(correlation, weight)
    kept = weight * inside
    taken = inverse(directions.shared(weight - kept).mul_(inside))
    weight = kept.add_(taken)
    across = taken  # its memory, which nothing else needs from here on
    left = target - product(weight, across)
    if not steps:
        return weight, left
    along, scratch = inverse(left * inside), torch.empty_like(left)
    norm = torch.mul(left, along, out=scratch).sum(1)
    for step in range(steps):
        product(along, across)
        curve = torch.mul(along, across, out=scratch).sum(1)
        stride = torch.where(curve > 0, norm / curve, torch.zeros_like(norm)).unsqueeze(1)
        weight.addcmul_(stride, along)
        left.addcmul_(stride, across, value=-1)
        if step < steps - 1:
            turned = inverse(torch.mul(left, inside, out=scratch))
            fresh = torch.mul(left, turned, out=across).sum(1)
            turn = torch.where(norm > 0, fresh / norm, torch.zeros_like(norm)).unsqueeze(1)
            along, scratch, norm = turned.addcmul_(turn, along), along, fresh
    return weight, left


class Product:
    """Products with one square matrix, by way of its number type.

    Args:
        matrix: In the number type of the other factors or a coarser one.
        like: A tensor of the shape and number type of the other factors.
    """

    def __init__(self, matrix: Float[Tensor, "d d"], like: Float[Tensor, "m d"]) -> None:
        self._matrix = matrix
        self._given = self._made = None
        if matrix.dtype != like.dtype:
            self._given = torch.empty_like(like, dtype=matrix.dtype)
            self._made = torch.empty_like(self._given)

    def __call__(
        self, values: Float[Tensor, "m d"], out: Float[Tensor, "m d"]
    ) -> Float[Tensor, "m d"]:
        """``values @ matrix``, into ``out``, which shares no memory with ``values``."""
        if self._given is None:
            return torch.mm(values, self._matrix, out=out)
        return out.copy_(torch.mm(self._given.copy_(values), self._matrix, out=self._made))
