"""Least squares for one layer: weights, factors or a bias that give back an output."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.records import Consumer
from mipp.surgery.refit.held_out import chosen_strength
from mipp.surgery.refit.refit_config import finite
from mipp.surgery.refit.ridge import Regression, Ridge
from mipp.tracing.calls import Call, weight_matrix


class LeastSquares:
    """The fit of one call of a pruned layer.

    Args:
        call: the call, whose weight and bias are set in place.
        consumer: the layer.
        x: rows that it takes in.
        y: outputs that it should give.
        ridge: pull, as a share of each feature's variance.
        toward: pulls towards the weights as they are (``"old"``) or towards ``"zero"``.
    """

    def __init__(
        self,
        call: Call,
        consumer: Consumer,
        x: Float[Tensor, "rows d"],
        y: Float[Tensor, "rows m"],
        ridge: float,
        toward: str,
    ) -> None:
        self.call, self.consumer, self.x, self.y = call, consumer, x, y
        added = call.bias is not None and call.kind != "conv_transpose"
        # a bias that is computed out of other parameters is no parameter that could be fitted
        self.bias = call.bias if added and consumer.bias is not None else None
        if added and consumer.bias is None:
            assert call.bias is not None
            self.y = y - call.bias.to(y.dtype)
        self.ridge, self.toward = ridge, toward
        self.old = weight_matrix(call.kind, call.weight).double()

    def fit_weights(self, few: float, example: Int[Tensor, " rows"]) -> None:
        """Fits all weights, and the bias (or the BatchNorm behind) such that the mean is kept.

        Args:
            few: rows for each feature below which held-out rows choose a stronger ridge, or to
                leave the layer as it is.
            example: which example each row is from.
        """
        # a transposed convolution is fitted on what each position adds, which has no bias in it
        centred = self.call.kind != "conv_transpose" and (
            self.bias is not None or self.consumer.norm_after
        )
        bias = None if self.bias is None else self.bias.detach()
        problem = Regression(self.x, self.y, self.old, bias, self.toward, centred)
        fitted = Ridge(problem)
        strength = chosen_strength(fitted, self.ridge, example, few)
        if strength is None:
            return
        new = finite(fitted.solution(strength), self.consumer.name)
        if self.bias is not None:
            self.bias.data.copy_(fitted.y_mean - new @ fitted.x_mean)
        if self.call.kind in ("conv_transpose", "matmul"):
            new = new.T
        self.call.weight.data.copy_(new.reshape(self.call.weight.shape))

    def fit_scale(self, channels: Int[Tensor, " inputs"]) -> None:
        """Fits one factor for all weights that read a channel; the bias stays.

        Args:
            channels: the channel of each input of the weight, counted from 0.
        """
        target = self.y.double()
        if self.bias is not None:
            target = target - self.bias.double()
        owner = channels.repeat_interleave(self.old.shape[1] // len(channels))
        of = torch.nn.functional.one_hot(owner).to(self.old)
        x = self.x.double()
        # an output is the sum over channels c of z_c = W_c x_c; outputs are rows, too
        gram = of.T @ ((x.T @ x) * (self.old.T @ self.old)) @ of / len(x)
        cross = of.T @ ((x.T @ target) * self.old.T).sum(1, keepdim=True) / len(x)
        ones = torch.ones_like(cross)
        pull = self.ridge * (gram.diagonal() + 1e-8 * gram.diagonal().mean())
        pull = torch.where(pull > 0, pull, 1.0)
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
            means = self.y.double().mean(0) - self.old @ self.x.double().mean(0)
            self.bias.data.copy_(means)
