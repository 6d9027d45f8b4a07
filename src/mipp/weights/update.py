"""Refit of single weights: the least-squares map from the inputs still read to the old outputs.

The function of Theorem 1 within a layer: of each row the regression on the inputs that it still
reads, a bias (or the running mean of the BatchNorm behind) such that the mean is kept.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mipp.covariance import varies
from mipp.errors import SurgeryError
from mipp.out_of_memory import enough_memory
from mipp.statistics import Batch, CaptureConfig
from mipp.surgery import LESS_MEMORY, Refit, best_fit, finite, pull_of
from mipp.weights.layers import Layer
from mipp.weights.measure import Stop, in_order
from mipp.weights.regression import Rows, best_weights


def update(
    changed: nn.Module,
    original: nn.Module,
    layers: Sequence[Layer],
    masks: Mapping[str, Tensor],
    batches: Sequence[Batch],
    refit: Refit,
    seed: int = 0,
    memory: float = math.inf,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Fits the weights of ``changed`` that stay, in place, to the original's outputs.

    Args:
        changed: the net with the zeros.
        original: the net before pruning, whose weights the ridge pulls towards.
        layers: those that may have zeros.
        masks: by the name of the weight, true where one stays.
        batches: the examples.
        refit: its ``mode`` (``"sequential"``: on what the changed net puts in; ``"closed"``: on
            what the original puts in; ``"norm"``: BatchNorm statistics alone), ``ridge``, ``norm``
            and rows.
        seed: of the rows that are drawn.
        memory: as in `mipp.surgery.walk`.
        advance: called after each layer (a progress bar).

    Raises:
        SurgeryError: the fitted weights are not finite.
    """

    def visit(stop: Stop) -> None:
        if not bool(masks[stop.layer.name].all()):
            layer, width = stop.layer, stop.layer.block[1]
            with enough_memory(
                "refitting", layer.module, width, 8 * layer.groups * width**2, SurgeryError,
                LESS_MEMORY,
            ):  # fmt: skip
                _fit(stop, original.get_parameter(layer.name), masks[layer.name], refit)
        advance()

    in_order(
        changed, original, [] if refit.mode == "norm" else layers, batches, visit,
        config=CaptureConfig(refit.rows_per_feature, refit.min_rows), norm=refit.norm,
        dense=refit.mode == "closed", seed=seed, memory=memory, everywhere=True,
    )  # fmt: skip


def _fit(stop: Stop, old: Tensor, mask: Tensor, refit: Refit) -> None:
    layer = stop.layer
    gains = partial(_gains, stop, old, mask, refit)
    if best_fit(len(stop.x), layer.block[1], refit.few_rows, gains) is None:
        return
    new, x_mean, y_mean = _fitted(stop, old, mask, refit)
    stop.call.weight.data.copy_(layer.whole(finite(new, layer.module)))
    if layer.bias is not None and layer.centred and stop.call.bias is not None:
        means = y_mean - torch.einsum("gmd,gd->gm", new, x_mean)
        stop.call.bias.data.copy_(means.flatten())


def _gains(stop: Stop, old: Tensor, mask: Tensor, refit: Refit) -> Float[Tensor, "1 n"]:
    """By how much the squared error of each row falls when the other half of the rows is fitted.

    Rows are in the order of the examples, so that hardly one has rows in both.
    """
    layer, gains = stop.layer, []
    second = torch.arange(len(stop.x), device=stop.x.device) * 2 >= len(stop.x)
    bias = stop.call.bias
    for judging in (second, ~second):
        part = replace(stop, x=stop.x[~judging], y=stop.y[~judging])
        new, x_mean, y_mean = _fitted(part, old, mask, refit)
        x, y = stop.x[judging].double(), stop.y[judging].double()
        fitted = _outputs(new, x - x_mean) + y_mean
        bare = _outputs(layer.blocks((old * mask).detach()).double(), x)
        if bias is not None and layer.kind != "conv_transpose":
            bare = bare + bias.double().view(bare.shape[1:])
        elif layer.centred:  # a norm behind the layer takes up what the mean shifts
            bare = bare + (y - bare).mean(0)
        gains.append((y - bare).square().sum((1, 2)) - (y - fitted).square().sum((1, 2)))
    return torch.cat(gains).unsqueeze(0)


def _outputs(weight: Float[Tensor, "g m d"], x: Float[Tensor, "n g d"]) -> Float[Tensor, "n g m"]:
    return torch.einsum("gmd,ngd->ngm", weight, x)


def _fitted(
    stop: Stop, old: Tensor, mask: Tensor, refit: Refit
) -> tuple[Float[Tensor, "g m d"], Float[Tensor, "g d"], Float[Tensor, "g m"]]:
    """The weights, and the means of inputs and outputs (the bias, where nothing is centred)."""
    layer, n = stop.layer, len(stop.x)
    many = n >= refit.few_rows * layer.block[1]  # otherwise held-out rows decide about the fit
    x_mean = stop.x.double().mean(0) if layer.centred else torch.zeros_like(stop.x[0]).double()
    y_mean = stop.y.double().mean(0) if layer.centred else torch.zeros_like(stop.y[0]).double()
    if not layer.centred and layer.kind != "conv_transpose" and stop.call.bias is not None:
        y_mean = stop.call.bias.double().view_as(y_mean)
    keeps = layer.blocks(mask.to(old.device))
    made = []
    for block, before in enumerate(layer.blocks(old.detach())):
        x = stop.x[:, block] - x_mean[block].to(stop.x.dtype)
        if layer.centred:
            variance = x.double().square().mean(0)
            x[:, ~varies(variance, x_mean[block], stop.x.dtype)] = 0
        y = stop.y[:, block] - y_mean[block].to(stop.y.dtype)
        moment = (x.T @ x).double() / n
        rows = Rows(
            moment, before.double(), torch.ones_like(before[:, 0]).double(),
            ridge=refit.ridge, scale=pull_of(moment.diagonal()) if many else None,
        )  # fmt: skip
        made.append(best_weights(rows, keeps[block], (y.T @ x).double() / n))
    return torch.stack(made), x_mean, y_mean
