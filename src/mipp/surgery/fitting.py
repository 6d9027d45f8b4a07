"""Least squares for one layer: weights, factors or a bias that give back an output."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.errors import SurgeryError
from mipp.records import Consumer
from mipp.surgery.ridge import FEWEST, Regression, Ridge, chosen_strength
from mipp.tracing.calls import Call, weight_matrix


class LeastSquares:
    """A call of a pruned layer, its inputs ``x``, and the outputs ``y`` that it should give.

    ``ridge`` pulls towards the weights as they are (``toward="old"``) or towards zero, as a share
    of each feature's variance.
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
        """All weights, and the bias (or the BatchNorm behind) such that the mean is kept.

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
        strength: float | None = self.ridge
        fitted = Ridge(problem)
        if len(self.x) < few * self.x.shape[1]:
            enough = len(self.x) >= FEWEST
            strength = chosen_strength(fitted, self.ridge, example) if enough else None
        if strength is None:
            return
        new = self._checked(fitted.solution(strength))
        if self.bias is not None:
            self.bias.data.copy_(fitted.y_mean - new @ fitted.x_mean)
        if self.call.kind in ("conv_transpose", "matmul"):
            new = new.T
        self.call.weight.data.copy_(new.reshape(self.call.weight.shape))

    def fit_scale(self, channels: Int[Tensor, " inputs"]) -> None:
        """One factor for all weights that read a channel; the bias stays.

        ``channels``: of each input of the weight, counted from 0.
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
        factors = self._checked(solved).squeeze(1)[channels].to(self.call.weight.dtype)
        shape = [1] * self.call.weight.dim()
        shape[self.consumer.in_dim] = -1
        self.call.weight.data.mul_(factors.view(shape))

    def fit_bias(self) -> None:
        """The bias such that the mean is kept; without one there is nothing to fit."""
        if self.bias is not None:
            means = self.y.double().mean(0) - self.old @ self.x.double().mean(0)
            self.bias.data.copy_(means)

    def _checked(self, new: Float[Tensor, "a b"] | None) -> Float[Tensor, "a b"]:
        if new is None or not bool(torch.isfinite(new).all()):
            raise SurgeryError(
                f"The refit of {self.consumer.name} gave weights that are not finite. Check the "
                "activations for infinite values, raise the ridge (mipp.Refit(ridge=0.01)), or "
                "apply the plan with refit=False."
            )
        return new
