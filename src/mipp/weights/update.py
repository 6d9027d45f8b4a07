"""What the weights that stay become: the least-squares map from what they read to the old outputs.

The function of Theorem 1 within a layer: of each row the regression on the inputs that it still
reads, a bias (or the running mean of the BatchNorm behind) such that the mean is kept.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mipp.allocation import enough_memory
from mipp.capture import Batch, CaptureConfig
from mipp.errors import SurgeryError
from mipp.information.rows import Rows, best_weights
from mipp.surgery import Refit
from mipp.weights.layers import Layer
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
    layer, n = stop.layer, len(stop.x)
    x_mean = stop.x.double().mean(0) if layer.centred else torch.zeros_like(stop.x[0]).double()
    y_mean = stop.y.double().mean(0) if layer.centred else torch.zeros_like(stop.y[0]).double()
    if not layer.centred and layer.kind != "conv_transpose" and stop.call.bias is not None:
        y_mean = stop.call.bias.double().view_as(y_mean)
    keeps = layer.blocks(mask.to(old.device))
    made = []
    for block, before in enumerate(layer.blocks(old.detach())):
        x = stop.x[:, block] - x_mean[block].to(stop.x.dtype)
        y = stop.y[:, block] - y_mean[block].to(stop.y.dtype)
        rows = Rows(
            (x.T @ x).double() / n, before.double(), torch.ones_like(before[:, 0]).double(),
            ridge=refit.ridge,
        )  # fmt: skip
        made.append(best_weights(rows, keeps[block], (y.T @ x).double() / n))
    new = torch.stack(made)
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
