"""Ridge regression, in the smaller of feature and row space, and how strong a ridge it takes.

With many more rows than features any small ridge will do. With few, least squares follows their
accidents and does more harm than good: then rows that had no part in the fit choose the strength of
the ridge, or to leave the layer as it is.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.covariance import varies

FEWEST = 8
"""Rows from which something can be fitted that others would confirm."""

N_FOLDS = 8
STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4)
"""Multiples of the ridge that was asked for which held-out rows choose from."""

DEVIATIONS = 1.0
"""Standard errors by which held-out rows have to be met better with a fit than without."""


@dataclass(frozen=True, eq=False)
class Regression:
    """Rows of one layer: inputs ``x`` (n, d), and outputs ``y`` (n, m) that it should give.

    ``old`` (m, d): its weights as they are; ``bias`` (m,): its own, or None. ``toward``: what the
    ridge pulls towards, the ``old`` weights or ``zero``. ``centred``: whether something takes up a
    shift of the mean: the layer's own bias, or the norm behind it.
    """

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "n m"]
    old: Float[Tensor, "m d"]
    bias: Float[Tensor, " m"] | None
    toward: str
    centred: bool

    def rows(self, chosen: Bool[Tensor, " n"]) -> "Regression":
        """The same layer on some of the rows."""
        return Regression(
            self.x[chosen], self.y[chosen], self.old, self.bias, self.toward, self.centred
        )

    def means(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " m"]]:
        """Of inputs and outputs; zero where nothing takes up a shift."""
        if not self.centred:
            return torch.zeros_like(self.old[0]), torch.zeros_like(self.old[:, 0])
        return self.x.double().mean(0), self.y.double().mean(0)


class Ridge:
    """Solutions of one regression for any strength of the ridge.

        min_W  mean |y - W x|^2 + strength sum_j D_j |w_j - old_j|^2         D_j = Var x_j

    ``x`` and ``y`` about their means. A feature that never varies keeps its old weights.
    """

    def __init__(self, problem: Regression) -> None:
        self.problem = problem
        self.x_mean, self.y_mean = problem.means()
        x = problem.x - self.x_mean.to(problem.x.dtype)
        y = problem.y - self.y_mean.to(problem.y.dtype)
        if problem.centred:
            variance = x.double().square().mean(0)
            constant = ~varies(variance, self.x_mean, problem.x.dtype)
            x = torch.where(constant, torch.zeros_like(x), x)
        self._kernel: tuple[Tensor, Tensor, Tensor] | None = None
        if x.shape[0] < x.shape[1]:
            self._in_row_space(x, y)
        else:
            n = len(x)
            self._gram = (x.T @ x).double() / n
            self._cross = (x.T @ y).double() / n
            self._pull = pull_of(self._gram.diagonal())

    def _in_row_space(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n m"]) -> None:
        wide = x.double()
        self._pull = pull_of(wide.square().mean(0))
        target = y.double()
        if self.problem.toward == "old":
            target = target - wide @ self.problem.old.T
        scaled = wide / self._pull
        values, vectors = torch.linalg.eigh(scaled @ wide.T / len(wide))
        self._kernel = values.clamp_min(0), vectors, vectors.T @ target
        self._scaled = scaled

    def solution(self, strength: float) -> Float[Tensor, "m d"] | None:
        """The weights; None where the equations cannot be solved."""
        old = self.problem.old
        if self._kernel is not None:
            values, vectors, turned = self._kernel
            dual = vectors @ (turned / (values + strength).unsqueeze(1)) / len(vectors)
            change = (self._scaled.T @ dual).T
            return old + change if self.problem.toward == "old" else change
        gram = self._gram.clone()
        pull = strength * self._pull
        gram.diagonal().add_(pull)
        cross = self._cross
        if self.problem.toward == "old":
            cross = cross + pull.unsqueeze(1) * old.T
        root, fault = torch.linalg.cholesky_ex(gram)
        return torch.cholesky_solve(cross, root).T if int(fault) == 0 else None

    def errors(self, weight: Float[Tensor, "m d"], held: Regression) -> Float[Tensor, " n"]:
        """Squared error of each of some other rows, with means as they are here."""
        x = held.x.double() - self.x_mean
        return (held.y.double() - self.y_mean - x @ weight.T).square().sum(1)


def pull_of(variance: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """What the ridge is a share of; never zero, or it would not pull at what never varies."""
    pull = variance + 1e-8 * variance.mean()
    return torch.where(pull > 0, pull, 1.0)


def chosen_strength(
    problem: Regression, ridge: float, example: Int[Tensor, " n"]
) -> float | None:
    """The strength at which held-out rows are met best; None where no fit is surely better.

    Args:
        problem: the layer, all rows.
        ridge: the least strength.
        example: which example each row is from; rows of one are held out together, where there are
            several examples.
    """
    number = _numbers(example)
    n_examples = int(number.max()) + 1
    fold = number * min(N_FOLDS, n_examples) // n_examples
    strengths = [ridge * factor for factor in STRENGTHS]
    gains = problem.old.new_zeros(len(strengths), n_examples)
    for part in range(int(fold.max()) + 1):
        mine = fold == part
        held, fitted = problem.rows(mine), Ridge(problem.rows(~mine))
        none = _without(fitted, held)
        for place, strength in enumerate(strengths):
            weight = fitted.solution(strength)
            error = torch.inf if weight is None else fitted.errors(weight, held)
            gains[place].index_add_(0, number[mine], none - error)
    best = int(gains.sum(1).argmax())
    spread = float(gains[best].std(correction=0)) * n_examples**0.5
    return strengths[best] if float(gains[best].sum()) > DEVIATIONS * spread else None


def _without(fitted: Ridge, held: Regression) -> Float[Tensor, " n"]:
    """Squared errors of the layer as it is; a norm behind it takes up what the mean shifts."""
    problem = fitted.problem
    if problem.centred and problem.bias is None:
        return fitted.errors(problem.old, held)
    left = held.y.double() - held.x.double() @ problem.old.T
    return (left if problem.bias is None else left - problem.bias.double()).square().sum(1)


def _numbers(example: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The examples, counted from 0; each row for itself where there is one example."""
    names, number = torch.unique(example, return_inverse=True)
    return torch.arange(len(example), device=example.device) if len(names) == 1 else number
