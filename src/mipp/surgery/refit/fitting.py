"""Settings of a refit, and least squares for one layer: weights, factors or a bias.

Whether a fit helps is decided by rows that had no part in it. With many more rows than features
any fit does. With few, least squares follows their accidents and does more harm than good: then
held-out rows choose among several fits, or to leave the layer as it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.checks import check_fields
from mipp.covariance import dense
from mipp.errors import InputError, SurgeryError
from mipp.records import Consumer
from mipp.surgery.refit.reached import Reached
from mipp.surgery.refit.ridge import Regression, Ridge, pull_of
from mipp.tracing.calls import weight_matrix

Fitted = tuple[Float[Tensor, "m d"], Float[Tensor, " d"], Float[Tensor, " m"]]
"""Weights, and the means of inputs and outputs about which they were fitted."""

FEWEST = 8
"""Rows from which something can be fitted that others would confirm."""

N_FOLDS = 8
MANY = 64
"""Examples from which half as many folds do."""

WIDE, ENOUGH, HELD_OUT = 1024, 16, 4
"""Features beyond which, and examples from which on, one part in four of the examples is held out
and no other, since each fold costs several factorisations."""

STRENGTHS = (1.0, 30.0, 1000.0)
"""Multiples of the requested ridge that held-out rows choose from."""

_CHOICES = {
    "mode": ("sequential", "closed", "norm"),
    "fits": ("weights", "scale", "bias"),
    "toward": ("old", "zero"),
    "norm": ("mean", "full", "keep"),
}
LESS_MEMORY = (
    "Call apply(refit=False), or fit less: apply(refit='norm'), a smaller "
    "mipp.Refit(rows_per_feature=, min_rows=), or a plan with less memory= or fewer samples=. A "
    "method that needs no refit is method='l2' with refit=False."
)
"""What to do where memory runs out in a refit."""


@dataclass(frozen=True)
class Refit:
    """How the weights that stay take over what the removed ones did.

    Attributes:
        mode: ``sequential`` fits from inputs to outputs on what the pruned net really puts in,
            ``closed`` on what the original puts in, ``norm`` only corrects BatchNorm statistics.
        fits: all ``weights`` of a layer, one factor for each channel that it reads (``scale``,
            biases stay), or its ``bias`` alone; the last two are special cases of the first.
        ridge: pull towards ``toward``, as a share of each feature's variance and a tenth of the
            median variance.
        toward: the ``old`` weights, or ``zero``.
        norm: BatchNorm statistics follow the ``mean``, mean and variance (``full``), or nothing
            (``keep``).
        rows_per_feature: rows (examples x positions) used for a fit, per feature of the layer's
            input.
        min_rows: rows used for a fit at least.
        few_rows: rows for each feature below which all ``weights`` of a layer are fitted with a
            ridge, up to 1,000 times as strong, that held-out rows choose, or not at all where no
            fit is better; 0 for never.

    Examples:
        >>> Refit(ridge=1e-2).mode
        'sequential'
    """

    mode: str = "sequential"
    fits: str = "weights"
    ridge: float = 1e-3
    toward: str = "old"
    norm: str = "mean"
    rows_per_feature: float = 8.0
    min_rows: int = 8192
    few_rows: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"Refit has {name}={getattr(self, name)!r}; expected one of "
                    f"{', '.join(map(repr, choices))}."
                )
        if not 0 < self.ridge < math.inf:
            raise InputError(f"Refit has ridge={self.ridge}; expected a number above 0.")
        if not 0 <= self.few_rows < math.inf:
            raise InputError(f"Refit has few_rows={self.few_rows}; expected a number from 0 up.")
        if not 0 < self.rows_per_feature < math.inf or self.min_rows < 1:
            raise InputError(
                f"Refit has rows_per_feature={self.rows_per_feature} and min_rows={self.min_rows}; "
                "expected a number above 0, such as 24, and at least one row."
            )


def finite(new: Float[Tensor, "*shape"] | None, layer: str) -> Float[Tensor, "*shape"]:
    """The fitted weights of a layer; None where the equations could not be solved.

    Raises:
        SurgeryError: there are none, or they are not finite.
    """
    if new is None or not bool(torch.isfinite(new).all()):
        raise SurgeryError(
            f"The refit of {layer} gave weights that are not finite. Check the "
            "activations for infinite values, raise the ridge (mipp.Refit(ridge=0.01)), or "
            "apply the plan with refit=False."
        )
    return new


class LeastSquares:
    """The fit of one layer of a pruned net, which all batches have reached.

    Rows of all processes count. Where there are many they are summed batch by batch, and never
    stand beside each other.

    Args:
        reached: the layer, whose weight and bias are set in place.
        consumer: the layer, as the graph has it.
        ridge: pull, as in `Refit`.
        toward: pulls towards the weights as they are (``"old"``) or towards ``"zero"``.
    """

    def __init__(self, reached: Reached, consumer: Consumer, ridge: float, toward: str) -> None:
        self.reached, self.consumer = reached, consumer
        self.call = call = reached.call
        added = call.bias is not None and call.kind != "conv_transpose"
        # a bias that is computed out of other parameters is no parameter that could be fitted
        self.bias = call.bias if added and consumer.bias is not None else None
        self.ridge, self.toward = ridge, toward
        self.old = weight_matrix(call.kind, call.weight).double()
        self._fixed = torch.zeros_like(self.old[:, 0])
        if added and consumer.bias is None:
            assert call.bias is not None
            self._fixed = call.bias.detach().double()

    def fit_weights(self, few: float) -> None:
        """Fits all weights, and the bias (or the BatchNorm behind) such that the mean is kept.

        Args:
            few: rows for each feature below which held-out rows choose a stronger ridge, or to
                leave the layer as it is.
        """
        # a transposed convolution is fitted on what each position adds, which has no bias in it
        centred = self.call.kind != "conv_transpose" and (
            self.bias is not None or self.consumer.norm_after
        )
        if self.reached.n_rows >= few * self.old.shape[1]:
            made: Fitted | None = self._from_moments(centred)
        else:
            made = self._from_rows(centred, few)
        if made is None:
            return
        new, x_mean, y_mean = made
        finite(new, self.consumer.name)
        if self.bias is not None:
            self.bias.data.copy_(y_mean - new @ x_mean)
        if self.call.kind in ("conv_transpose", "matmul"):
            new = new.T
        self.call.weight.data.copy_(new.reshape(self.call.weight.shape))

    def _from_moments(self, centred: bool) -> Fitted:
        x_mean, y_mean, gram, cross, variance = self._moments(centred)
        anchor = self.old if self.toward == "old" else torch.zeros_like(self.old)
        pull = self.ridge * pull_of(variance)
        gram.diagonal().add_(pull)
        cross += pull.unsqueeze(1) * anchor.T
        root, fault = torch.linalg.cholesky_ex(gram)
        solved = torch.cholesky_solve(cross, root).T if int(fault) == 0 else None
        return finite(solved, self.consumer.name), x_mean, y_mean

    def _moments(self, centred: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Means, moments and cross-moments (about the means or zero), and a scale of each input."""
        seen = self.reached.moments()
        x_mean, y_mean = seen.mean[0].double(), seen.target_mean[0].double() - self._fixed
        # features that are not finite look like features that never vary
        finite(torch.cat([x_mean, y_mean]), self.consumer.name)
        gram, cross = dense(seen.covariance())[0].double(), seen.cross_covariance()[0].double()
        if not centred:
            gram += torch.outer(x_mean, x_mean)
            cross += torch.outer(x_mean, y_mean)
        return x_mean, y_mean, gram, cross, gram.diagonal().clone()

    def _from_rows(self, centred: bool, few: float) -> Fitted | None:
        """The fit to few rows, of a strength that held-out rows choose; None for leaving it."""
        rows = self.reached.whole(everywhere=True)
        bias = None if self.bias is None else self.bias.detach()
        y = rows.y[:, 0] - self._fixed.to(rows.y.dtype)
        fitted = Ridge(Regression(rows.x[:, 0], y, self.old, bias, self.toward, centred))
        strength = chosen_strength(fitted, self.ridge, rows.example, few)
        if strength is None:
            return None
        new = finite(fitted.solution(strength), self.consumer.name)
        return new, fitted.x_mean, fitted.y_mean

    def fit_scale(self, channels: Int[Tensor, " inputs"]) -> None:
        """Fits one factor for all weights that read a channel; the bias stays.

        Args:
            channels: the channel of each input of the weight, counted from 0.
        """
        x_mean, _, second, across, _ = self._moments(centred=False)
        if self.bias is not None:
            across -= torch.outer(x_mean, self.bias.double())
        owner = channels.repeat_interleave(self.old.shape[1] // len(channels))
        of = torch.nn.functional.one_hot(owner).to(self.old)
        # an output is the sum over channels c of z_c = W_c x_c; outputs are rows, too
        gram = of.T @ (second * (self.old.T @ self.old)) @ of
        cross = of.T @ (across * self.old.T).sum(1, keepdim=True)
        ones = torch.ones_like(cross)
        pull = self.ridge * pull_of(gram.diagonal())
        gram.diagonal().add_(pull)
        if self.toward == "old":
            cross = cross + pull.unsqueeze(1) * ones
        root, fault = torch.linalg.cholesky_ex(gram)
        solved = torch.cholesky_solve(cross, root) if int(fault) == 0 else None
        factors = finite(solved, self.consumer.name).squeeze(1)[channels].to(self.call.weight.dtype)
        shape = [1] * self.call.weight.dim()
        shape[self.consumer.in_dim] = -1
        self.call.weight.data.mul_(factors.view(shape))

    def fit_bias(self) -> None:
        """Fits the bias such that the mean is kept; without one there is nothing to fit."""
        if self.bias is not None:
            x_mean, y_mean = (mean[0].double() for mean in self.reached.all_means())
            finite(torch.cat([x_mean, y_mean]), self.consumer.name)
            self.bias.data.copy_(y_mean - self._fixed - self.old @ x_mean)


def best_fit(
    n_rows: int,
    n_features: int,
    few_rows: float,
    gains: Callable[[], Float[Tensor, "fits n"]],
) -> int | None:
    """Which of several fits to use; None where none surely helps.

    Surely: the sum over the held-out examples (or rows) of what a fit gains is above its standard
    error.

    Args:
        n_rows: rows available.
        n_features: features of a row.
        few_rows: rows for each feature from which on the first fit is used unseen.
        gains: by how much each fit lowers the squared error of each held-out example.
    """
    if n_rows >= few_rows * n_features:
        return 0
    if n_rows < FEWEST:
        return None
    found = gains()
    best = int(found.sum(1).argmax())
    error = float(found[best].std(correction=0)) * found.shape[1] ** 0.5
    return best if float(found[best].sum()) > error else None


def chosen_strength(
    fitted: Ridge, ridge: float, example: Int[Tensor, " n"], few_rows: float = math.inf
) -> float | None:
    """The strength of the ridge to use, or None for leaving the layer as it is; see `best_fit`.

    Args:
        fitted: the layer, all rows.
        ridge: the least strength.
        example: which example each row is from; rows of one are held out together, where there are
            several examples.
        few_rows: rows for each feature from which on the least strength is used.
    """
    strengths = [ridge * factor for factor in STRENGTHS]

    def gains() -> Float[Tensor, "strengths examples"]:
        number = _numbers(example)
        n_examples = int(number.max()) + 1
        if n_examples >= ENOUGH and fitted.problem.x.shape[1] > WIDE:
            fold = (number % HELD_OUT).clamp_max(1).neg()  # every fourth example, and no other
        else:
            n_folds = min(N_FOLDS if n_examples < MANY else N_FOLDS // 2, n_examples)
            fold = number * n_folds // n_examples
        rows = fitted.gains(strengths, fold)
        of_examples = rows.new_zeros(len(strengths), n_examples).index_add_(1, number, rows)
        return of_examples[:, number[fold >= 0].unique()]

    n, d = fitted.problem.x.shape
    best = best_fit(n, d, few_rows, gains)
    return None if best is None else strengths[best]


def _numbers(example: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The examples, counted from 0; each row for itself where there is one example."""
    names, number = torch.unique(example, return_inverse=True)
    return torch.arange(len(example), device=example.device) if len(names) == 1 else number
