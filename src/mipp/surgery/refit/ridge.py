"""Ridge regression, in the smaller of feature and row space, and what it gains on held-out rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.covariance import gram, varies


@dataclass(frozen=True, eq=False)
class Regression:
    """Rows of one layer, and what it should give.

    Attributes:
        x: inputs.
        y: outputs that the layer should give.
        old: weights as they are.
        bias: the layer's own, or None.
        toward: what the ridge pulls towards, the ``old`` weights or ``zero``.
        centred: whether something takes up a shift of the mean: the layer's own bias, or the norm
            behind it.
    """

    x: Float[Tensor, "n d"]
    y: Float[Tensor, "n m"]
    old: Float[Tensor, "m d"]
    bias: Float[Tensor, " m"] | None
    toward: str
    centred: bool

    @property
    def anchor(self) -> Float[Tensor, "m d"]:
        """The weights that the ridge pulls towards."""
        return self.old if self.toward == "old" else torch.zeros_like(self.old)

    def mixed(self, mixtures: Float[Tensor, "m k"]) -> "Regression":
        """The same rows with mixtures of the outputs, whose solutions are mixed alike."""
        bias = None if self.bias is None else self.bias.double() @ mixtures
        y = self.y @ mixtures.to(self.y.dtype)
        return replace(self, y=y, old=mixtures.T @ self.old, bias=bias)


MIXTURES = 128
"""Random mixtures of outputs that fits are judged by where there are more than twice as many: a
squared error over all outputs is that over the mixtures, but for some percent (Johnson and
Lindenstrauss 1984), and a solution for each output costs more than the factorisation."""


RARE = 0.1
"""Share of the median variance by which every feature is pulled besides its own."""


def pull_of(variance: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """How strongly each feature is pulled, before the ridge: by its variance, and never by 0.

    A feature that is active in a few of the rows, and barely so, has next to no variance of its
    own. Its weight would be whatever makes these few rows fit, and blow up other examples, in which
    it is as active as features usually are. So the typical variance counts as well. It is the
    median, which features of enormous variance do not raise.
    """
    varying = variance[variance > 0]
    typical = varying.median() if len(varying) else variance.new_zeros(())
    pull = variance + RARE * typical + 1e-8 * variance.mean()
    return torch.where(pull > 0, pull, 1.0)


@dataclass(frozen=True, eq=False)
class _Outputs:
    """Outputs about their mean, or mixtures of them."""

    y: Float[Tensor, "n m"]
    mean: Float[Tensor, " m"]
    problem: Regression

    def mixed(self) -> "_Outputs":
        """The same with random mixtures in place of very many outputs."""
        n_outputs = len(self.mean)
        if n_outputs <= 2 * MIXTURES:
            return self
        draw = torch.Generator().manual_seed(n_outputs)
        drawn = torch.randn(n_outputs, MIXTURES, generator=draw, dtype=torch.float64)
        mixtures = drawn.to(self.mean.device) / MIXTURES**0.5
        mean = self.mean @ mixtures
        mixed = self.problem.mixed(mixtures)
        return _Outputs(mixed.y - mean.to(mixed.y.dtype), mean, mixed)


class Ridge:
    """Solutions of one regression for any strength of the ridge.

        min_W  mean |y - W x|^2 + strength sum_j D_j |w_j - anchor_j|^2        D_j = Var x_j

    ``x`` and ``y`` about their means where that is centred. A feature that never varies keeps its
    old weights. In feature space the second moments of rows are solved with; with fewer rows than
    features, in row space, their inner products (the dual form: Saunders, Gammerman and Vovk 1998,
    "Ridge regression learning algorithm in dual variables").
    """

    def __init__(self, problem: Regression) -> None:
        self.problem = problem
        self.x_mean = torch.zeros_like(problem.old[0])
        self.y_mean = torch.zeros_like(problem.old[:, 0])
        if problem.centred:
            self.x_mean, self.y_mean = problem.x.double().mean(0), problem.y.double().mean(0)
        self._x = problem.x - self.x_mean.to(problem.x.dtype)
        y = problem.y - self.y_mean.to(problem.y.dtype)
        self._outputs = _Outputs(y, self.y_mean, problem)
        variance = self._x.square().mean(0, dtype=torch.float64)
        if problem.centred:
            constant = ~varies(variance, self.x_mean, problem.x.dtype)
            variance[constant] = 0
            self._x[:, constant] = 0
        self._pull = pull_of(variance)
        self.in_rows = len(self._x) < self._x.shape[1]
        self._second: Tensor | None = None
        self._inner: Tensor | None = None

    def solution(self, strength: float) -> Float[Tensor, "m d"] | None:
        """The weights; None where the equations cannot be solved."""
        if self.in_rows:
            return self._rows(self._outputs).solution(strength)
        return self._sums(slice(None), self._outputs, self._second).solution(strength)

    def gains(
        self, strengths: Sequence[float], fold: Int[Tensor, " n"]
    ) -> Float[Tensor, "strengths n"]:
        """By how much the squared error of each row falls when the other folds are fitted.

        Args:
            strengths: from the weakest to the strongest.
            fold: of each row, counted from 0; -1 for rows that are never held out, which gain 0.
                Of one fold, strengths are not tried beyond one that gains less than that before.

        Very many outputs count by random mixtures of them.
        """
        seen = self._outputs.mixed()
        held_out, alone = fold >= 0, int(fold.max()) == 0
        found = self._pull.new_full((len(strengths), len(fold)), -torch.inf)
        for mine, fitted in self._others(fold, seen):
            none, before = self._without(mine, seen), -torch.inf
            for place, strength in enumerate(strengths):
                errors = fitted.errors(strength, mine)
                if errors is not None:
                    found[place, mine] = none - errors
                    gained = float(found[place, mine].sum())
                    if alone and gained < before:
                        break
                    before = gained
        found[:, ~held_out] = 0
        return found

    def _others(
        self, fold: Int[Tensor, " n"], seen: "_Outputs"
    ) -> "Iterator[tuple[Bool[Tensor, ' n'], _Fitted]]":
        """Each fold's rows, and what is fitted to the others."""
        parts = [fold == number for number in range(int(fold.max()) + 1)]
        if self.in_rows:
            whole = self._rows(seen)
            for mine in parts:
                yield mine, whole.without(mine)
            return
        never = [fold < 0] if bool((fold < 0).any()) else []
        sums = [self._sums(mine, seen) for mine in parts + never]
        total = _Sums.added(sums)
        self._second = total.xx
        for mine, own in zip(parts, sums, strict=False):
            yield mine, total.less(own).on(self._x, seen.y)

    def _without(self, rows: Bool[Tensor, " n"], seen: "_Outputs") -> Float[Tensor, " r"]:
        """Squared errors of the layer as it is; a norm behind it takes up what the mean shifts."""
        problem, old = seen.problem, seen.problem.old
        left = (seen.y[rows] - self._x[rows] @ old.T.to(self._x.dtype)).double()
        if problem.bias is not None:
            left += seen.mean - old @ self.x_mean - problem.bias.double()
        elif problem.centred:
            # about the mean of the others, of which all rows have none
            left += left.sum(0) / (~rows).sum()
        return left.square().sum(1)

    def _sums(
        self,
        rows: "slice | Bool[Tensor, ' n']",
        seen: "_Outputs",
        second: Float[Tensor, "d d"] | None = None,
    ) -> "_Sums":
        """Over some rows, whose second moments may be known."""
        x, y = self._x[rows], seen.y[rows]
        return _Sums(
            len(x), x.sum(0, dtype=torch.float64), y.sum(0, dtype=torch.float64),
            gram(x).double() if second is None else second, (x.T @ y).double(), self._pull,
            seen.problem,
        )  # fmt: skip

    def _rows(self, seen: "_Outputs") -> "_Rows":
        x, anchor = self._x.double(), seen.problem.anchor
        if self._inner is None:
            self._inner = gram((x / self._pull.sqrt()).T)
        left = seen.y.double() - x @ anchor.T
        return _Rows(self._inner, left, x / self._pull, seen.problem)


class _Sums:
    """Sums over some rows, about the mean of all of them, and the solutions that they give."""

    def __init__(
        self,
        n: int,
        x: Float[Tensor, " d"],
        y: Float[Tensor, " m"],
        xx: Float[Tensor, "d d"],
        xy: Float[Tensor, "d m"],
        pull: Float[Tensor, " d"],
        problem: Regression,
    ) -> None:
        self.n, self.x, self.y, self.xx, self.xy = n, x, y, xx, xy
        self.pull, self.problem = pull, problem
        self._rows: tuple[Tensor, Tensor] | None = None

    @classmethod
    def added(cls, parts: "Sequence[_Sums]") -> "_Sums":
        """The sums over all parts."""
        first = parts[0]
        total = cls(first.n, first.x, first.y, first.xx, first.xy, first.pull, first.problem)
        for part in parts[1:]:
            total.n, total.x, total.y = total.n + part.n, total.x + part.x, total.y + part.y
            total.xx, total.xy = total.xx + part.xx, total.xy + part.xy
        return total

    def less(self, part: "_Sums") -> "_Sums":
        """The sums over the rows that are not in a part."""
        return _Sums(
            self.n - part.n, self.x - part.x, self.y - part.y, self.xx - part.xx,
            self.xy - part.xy, self.pull, self.problem,
        )  # fmt: skip

    def on(self, x: Float[Tensor, "n d"], y: Float[Tensor, "n m"]) -> "_Sums":
        """The same sums, for judging these rows."""
        self._rows = x, y
        return self

    def solution(self, strength: float) -> Float[Tensor, "m d"] | None:
        """The weights; None where the equations cannot be solved."""
        second, cross = self.xx / self.n, self.xy / self.n
        if self.problem.centred:
            mean = self.x / self.n
            second -= torch.outer(mean, mean)
            cross -= torch.outer(mean, self.y / self.n)
        pull = strength * self.pull
        second.diagonal().add_(pull)
        cross += pull.unsqueeze(1) * self.problem.anchor.T
        root, fault = torch.linalg.cholesky_ex(second)
        return torch.cholesky_solve(cross, root).T if int(fault) == 0 else None

    def errors(self, strength: float, rows: Bool[Tensor, " n"]) -> Float[Tensor, " r"] | None:
        """Squared error of each of the rows."""
        weight = self.solution(strength)
        if weight is None:
            return None
        assert self._rows is not None
        x, y = self._rows[0][rows], self._rows[1][rows]
        left = (y - x @ weight.T.to(x.dtype)).double()
        if self.problem.centred:
            left += (weight @ self.x - self.y) / self.n
        return left.square().sum(1)


class _Rows:
    """Inner products of rows ``x D^-1 x'``, what the anchor leaves of ``y``, and ``x D^-1``."""

    def __init__(
        self,
        kernel: Float[Tensor, "n n"],
        left: Float[Tensor, "n m"],
        scaled: Float[Tensor, "n d"],
        problem: Regression,
    ) -> None:
        self._kernel, self._left, self._scaled, self.problem = kernel, left, scaled, problem
        self._known = torch.ones(len(kernel), dtype=torch.bool, device=kernel.device)

    def without(self, rows: Bool[Tensor, " n"]) -> "_Rows":
        """The same, to be fitted to the other rows."""
        made = _Rows(self._kernel, self._left, self._scaled, self.problem)
        made._known = ~rows
        return made

    def _dual(self, strength: float) -> Float[Tensor, "r m"] | None:
        """Weights of the known rows: their combination is what is added to the anchor."""
        known = self._known
        kernel, left = self._kernel[known][:, known].clone(), self._left[known]
        if self.problem.centred:
            left = left - left.mean(0)
            kernel = kernel - kernel.mean(0)
            kernel = kernel - kernel.mean(1, keepdim=True)
        kernel.diagonal().add_(strength * len(left))
        root, fault = torch.linalg.cholesky_ex(kernel)
        return torch.cholesky_solve(left, root) if int(fault) == 0 else None

    def solution(self, strength: float) -> Float[Tensor, "m d"] | None:
        """The weights; None where the equations cannot be solved."""
        dual = self._dual(strength)
        return None if dual is None else self.problem.anchor + (self._scaled.T @ dual).T

    def errors(self, strength: float, rows: Bool[Tensor, " n"]) -> Float[Tensor, " r"] | None:
        """Squared error of each of the rows."""
        dual = self._dual(strength)
        if dual is None:
            return None
        known = self._known
        across, left = self._kernel[rows][:, known], self._left[rows]
        if self.problem.centred:
            # rows about the mean of those that are known; the dual weights sum to zero
            across = across - self._kernel[known][:, known].mean(0)
            left = left - self._left[known].mean(0)
        return (left - across @ dual).square().sum(1)


_Fitted = _Sums | _Rows
