"""How finely the first layers of a model resolve its input.

Let ``Y = W X + b`` be the outputs of all layers that read the input and N the covariance of their
noise. All their information about X is in the matrix ``G = W^T inverse(N) W`` (features x
features): the noisy Y and ``R X`` with standard normal noise, where ``R^T R = G``, are the same up
to a rotation and directions that X does not reach. So G replaces the layers, however many outputs
they have.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp.errors import CalibrationError, InputError
from mipp.statistics import Loss
from mipp.statistics.batches import Batch
from mipp.statistics.loss import sampled_loss, settle
from mipp.tracing.calls import LINEAR, Call, CallHooks
from mipp.tracing.guards import measuring, recurrent_gradients

_BATCH = 256


def targets(
    model: nn.Module, X: Float[Tensor, "n ..."], noise: float | str, loss: Loss | str, seed: int
) -> Float[Tensor, "n r"]:
    """The first layers' view of each example, in units of their noise: ``R X``.

    Raises:
        CalibrationError: if the model's layers, or its loss, do not depend on X.
    """
    with measuring(model), recurrent_gradients(model):
        if noise == "fisher":
            seen = _fisher(model, X, loss, seed)
        else:
            seen = _response(model, X, float(noise))
    values, vectors = torch.linalg.eigh(seen)
    reached = values > values[-1].clamp_min(0) * 1e-12
    if not bool(reached.any()):
        raise CalibrationError(
            "Nothing that the model gives depends on X: its first layers, or the loss, are the "
            "same for all of it. Check the model in evaluation mode."
        )
    root = vectors[:, reached] * values[reached].sqrt()
    flat = X.flatten(1).to(torch.get_default_dtype())
    return flat @ root.to(flat.dtype)


def _fisher(
    model: nn.Module, X: Float[Tensor, "n ..."], loss: Loss | str, seed: int
) -> Float[Tensor, "d d"]:
    """W^T F W for the Fisher information F of the loss about all outputs of the first layers.

    It is the second moment of the loss's gradient about the *input*, which is W^T times that about
    the outputs. Each position of a map counts separately.
    """
    d = X[0].numel()
    total = torch.zeros(d, d, dtype=torch.float64, device=X.device)
    settled: Loss | None = None
    for number, part in enumerate(X.split(_BATCH)):
        x = part.clone().requires_grad_(True)
        with torch.enable_grad():
            output = model(x)
            if settled is None:
                settled, _ = settle(loss, output, None)
            generator = torch.Generator().manual_seed((seed * 7_919 + number) % 2**63)
            drawn = sampled_loss(settled, output, Batch((x,)), generator)
            if not drawn.requires_grad:
                raise CalibrationError(
                    "No gradient reaches X from what the model gives. Use noise=0.1, which needs "
                    "no gradient, or a model that computes with tensors all the way."
                )
            (gradient,) = torch.autograd.grad(drawn, x)
        if not bool(torch.isfinite(gradient).all()):
            raise CalibrationError(
                "The gradient about X has NaN or infinite values. Check the model in evaluation "
                "mode, or use noise=0.1, which needs no gradient."
            )
        g = gradient.flatten(1).double()
        total += g.T @ g
    return total / len(X)


def _response(model: nn.Module, X: Float[Tensor, "n ..."], share: float) -> Float[Tensor, "d d"]:
    """W^T inverse(N) W where N is ``share`` of the variance of every output of the first layers.

    All positions of a map have the same noise, a share of their average variance; otherwise one
    that rarely varies would be resolved as finely as any. W is the change of the outputs when one
    feature of the mean example changes by its standard deviation: exact if nothing nonlinear lies
    between the input and those layers.
    """
    flat = X.flatten(1).double()
    mean, scale = flat.mean(0), flat.std(0, correction=0)
    step = torch.where(scale > 0, scale, torch.ones_like(scale))
    middle, output = first_outputs(model, mean.to(X.dtype).view(1, *X.shape[1:]))
    rows = []
    for part in torch.arange(len(mean), device=X.device).split(_BATCH):
        moved = mean.repeat(len(part), 1)
        moved[torch.arange(len(part)), part] += step[part]
        rows.append(first_outputs(model, moved.to(X.dtype).view(-1, *X.shape[1:]))[0] - middle)
    W = torch.cat(rows).double() / step.unsqueeze(1)  # transposed: features x outputs
    root = torch.linalg.qr(flat - mean, mode="r").R / len(flat) ** 0.5
    variance = (root @ W).square().sum(0)
    pooled = torch.zeros(int(output.max()) + 1, dtype=W.dtype, device=W.device)
    pooled = pooled.index_add(0, output, variance) / output.bincount()
    noise = share * pooled[output]
    varies = noise > 0
    white = W[:, varies] / noise[varies].sqrt()
    return white @ white.T


def first_outputs(
    model: nn.Module, X: Float[Tensor, "n ..."]
) -> tuple[Float[Tensor, "n m"], Int[Tensor, " m"]]:
    """Outputs of all layers that read the input, side by side, and the output of each column.

    A layer reads the input if there is a path from it without another convolution or linear layer.
    (Grouped convolutions count as part of the path, like any other operation.) All positions of a
    map are one output.

    Raises:
        CalibrationError: if no layer does, or one of them mixes examples.
    """
    found: list[Tensor] = []

    def after(call: Call, output: Tensor) -> Tensor:
        # outputs are cut off from the graph, so only what comes straight from X has a gradient
        if call.input.requires_grad:
            channel = -1 if call.kind in LINEAR else 1
            found.append(output.detach().movedim(channel, 1))
        return output.detach()

    with torch.enable_grad(), CallHooks(model, after=after):
        model(X.clone().requires_grad_(True))
    if not found:
        raise CalibrationError(
            "No convolution or linear layer of the model reads X. Features are judged by what "
            "such layers take in; give labels or other targets in place of the model."
        )
    if any(len(output) != len(X) for output in found):
        raise CalibrationError(
            "A layer that reads X gives another number of rows than there are examples. Use "
            "noise='fisher', which looks at the loss alone."
        )
    sizes = torch.tensor([o[0, 0].numel() for o in found for _ in range(o.shape[1])])
    column = torch.arange(len(sizes)).repeat_interleave(sizes)
    return torch.cat([o.flatten(1) for o in found], 1), column.to(X.device)


def as_examples(model: nn.Module, X: object) -> Float[Tensor, "n ..."]:
    """X on the model's device and in its precision.

    Raises:
        InputError: for anything but real numbers with a dimension of examples and of features.
    """
    array = X if isinstance(X, Tensor) else np.asarray(X)
    if not isinstance(array, Tensor) and array.dtype.kind not in "fiub":
        raise InputError(f"X has type {array.dtype}; expected real numbers (n_samples, ...).")
    x = torch.as_tensor(array)
    if not x.is_floating_point() or x.dim() < 2 or len(x) < 10:
        raise InputError(
            f"X has shape {tuple(x.shape)} and type {x.dtype}; expected real numbers as the model "
            "takes them, (n_samples, ...), ten examples at the least. Tokens are not features "
            "that can be left out one by one."
        )
    if not bool(torch.isfinite(x).all()):
        raise InputError("X has NaN or infinite values. Clean the data first.")
    first = next(model.parameters(), None)
    # what was made under torch.inference_mode cannot be saved for a backward pass
    x = x.clone() if x.is_inference() else x.detach()
    return x if first is None else x.to(first.device, first.dtype)
