"""What the weights that stay become: the least-squares map from what they read to the old outputs.

The function of Theorem 1 within a layer: of each row the regression on the inputs that it still
reads, a bias (or the running mean of the BatchNorm behind) such that the mean is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mipp.covariance import varies
from mipp.errors import SurgeryError
from mipp.out_of_memory import enough_memory
from mipp.statistics import Batch, CaptureConfig
from mipp.surgery import FEWEST, Refit
from mipp.weights.layers import Layer
from mipp.weights.regression import Rows, best_weights
from mipp.weights.sequence import Stop, in_order


def update(
    changed: nn.Module,
    original: nn.Module,
    layers: Sequence[Layer],
    masks: Mapping[str, Tensor],
    batches: Sequence[Batch],
    refit: Refit,
    seed: int = 0,
) -> None:
    """Fits the weights in the masks (true where a weight stays, by name) of ``changed``, in place.

    ``refit``: its ``mode`` (``"sequential"``: on what the changed net puts in; ``"closed"``: on
    what the original puts in; ``"norm"``: BatchNorm statistics alone), ``ridge`` (towards the
    weights of ``original``), ``norm`` and rows.

    Raises:
        SurgeryError: the fitted weights are not finite.
    """

    def visit(stop: Stop) -> None:
        if not bool(masks[stop.layer.name].all()):
            layer, width = stop.layer, stop.layer.block[1]
            with enough_memory(
                "refitting", layer.module, width, 8 * layer.groups * width**2, SurgeryError,
                "Call apply(refit=False), or give a smaller mipp.Refit(rows_per_feature=, "
                "min_rows=): memory= is that of planning alone. A method that needs no refit is "
                "method='l2' with refit=False.",
            ):  # fmt: skip
                _fit(stop, original.get_parameter(layer.name), masks[layer.name], refit)

    in_order(
        changed, original, [] if refit.mode == "norm" else layers, batches, visit,
        config=CaptureConfig(refit.rows_per_feature, refit.min_rows), norm=refit.norm,
        dense=refit.mode == "closed", seed=seed,
    )  # fmt: skip


def _fit(stop: Stop, old: Tensor, mask: Tensor, refit: Refit) -> None:
    layer = stop.layer
    if len(stop.x) < refit.few_rows * layer.block[1] and not _helps(stop, old, mask, refit):
        return
    new, x_mean, y_mean = _fitted(stop, old, mask, refit)
    if not bool(torch.isfinite(new).all()):
        raise SurgeryError(
            f"The update of {layer.module} gave weights that are not finite. Check the activations "
            "for infinite values, raise the ridge (mipp.Refit(ridge=0.01)), or apply the plan with "
            "refit=False."
        )
    stop.call.weight.data.copy_(layer.whole(new))
    if layer.bias is not None and layer.centred and stop.call.bias is not None:
        means = y_mean - torch.einsum("gmd,gd->gm", new, x_mean)
        stop.call.bias.data.copy_(means.flatten())


def _helps(stop: Stop, old: Tensor, mask: Tensor, refit: Refit) -> bool:
    """Whether either half of the rows is met better by what is fitted to the other.

    Rows are in the order of the examples, so that hardly one has rows in both.
    """
    if len(stop.x) < FEWEST:
        return False
    layer, gains = stop.layer, []
    second = torch.arange(len(stop.x), device=stop.x.device) * 2 >= len(stop.x)
    bias = stop.call.bias
    for held in (second, ~second):
        part = replace(stop, x=stop.x[~held], y=stop.y[~held])
        new, x_mean, y_mean = _fitted(part, old, mask, refit)
        x, y = stop.x[held].double(), stop.y[held].double()
        fitted = _outputs(new, x - x_mean) + y_mean
        bare = _outputs(layer.blocks((old * mask).detach()).double(), x)
        if bias is not None and layer.kind != "conv_transpose":
            bare = bare + bias.double().view(bare.shape[1:])
        elif layer.centred:  # a norm behind the layer takes up what the mean shifts
            bare = bare + (y - bare).mean(0)
        gains.append((y - bare).square().sum((1, 2)) - (y - fitted).square().sum((1, 2)))
    gain = torch.cat(gains)
    return float(gain.sum()) > float(gain.std(correction=0)) * len(gain) ** 0.5


def _outputs(weight: Float[Tensor, "g m d"], x: Float[Tensor, "n g d"]) -> Float[Tensor, "n g m"]:
    return torch.einsum("gmd,ngd->ngm", weight, x)


def _fitted(
    stop: Stop, old: Tensor, mask: Tensor, refit: Refit
) -> tuple[Float[Tensor, "g m d"], Float[Tensor, "g d"], Float[Tensor, "g m"]]:
    """The weights, and the means of inputs and outputs (the bias, where nothing is centred)."""
    layer, n = stop.layer, len(stop.x)
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
        rows = Rows(
            (x.T @ x).double() / n, before.double(), torch.ones_like(before[:, 0]).double(),
            ridge=refit.ridge,
        )  # fmt: skip
        made.append(best_weights(rows, keeps[block], (y.T @ x).double() / n))
    return torch.stack(made), x_mean, y_mean
