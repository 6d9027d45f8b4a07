"""Where training starts: least squares for the layers whose inputs are known already.

A consumer is linear in its inputs, and gradient steps would need thousands to find that out. Of few
inputs much more can be had at once: with hidden units whose hinges lie where the rows are, least
squares fits the last layer to a piecewise linear function of them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.information.learned.networks import Judge, Networks, Read, better

RIDGES = (1e-4, 1e-2, 1.0)
"""Ridges tried, as shares of a feature's variance; stopping rows choose."""

_Place = Callable[[Tensor, Tensor], Networks]
"""Slopes (nets, features, m) and intercepts (nets, 1, m) to networks that have them."""


def linear_start(
    nets: Networks,
    read: Read,
    values: Float[Tensor, "n m"],
    fit_rows: Int[Tensor, "nets fit"],
    stop_rows: Int[Tensor, "nets stop"],
    judge: Judge,
) -> Networks:
    """The networks with ridge regression as their linear path; stopping rows choose the ridge.

    Args:
        nets: As they were drawn.
        read: The inputs of some rows.
        values: The targets of all rows.
        fit_rows: The rows that each network is fitted to.
        stop_rows: The early-stopping rows of each network.
        judge: The loss.
    """
    everyone = torch.arange(len(fit_rows), device=fit_rows.device)
    stop = read(stop_rows, everyone)
    inputs = read(fit_rows, everyone)
    return _best_ridge(
        inputs, values[fit_rows], lambda s, c: _with_linear_path(nets, s, c),
        lambda tried: judge(tried(stop), stop_rows),
    )[0]  # fmt: skip


def piecewise_start(
    nets: Networks,
    read: Read,
    values: Float[Tensor, "n m"],
    fit_rows: Int[Tensor, "nets fit"],
    stop_rows: Int[Tensor, "nets stop"],
    judge: Judge,
    generator: torch.Generator,
) -> Networks:
    """The networks with a last layer fitted together with the linear path, see the module.

    Stopping rows choose between that and `linear_start`. For a few inputs; the arguments are those
    of `linear_start`, and a generator of the rows that hinges are put on.
    """
    everyone = torch.arange(len(fit_rows), device=fit_rows.device)
    inputs, stop = read(fit_rows, everyone), read(stop_rows, everyone)
    y = values[fit_rows]

    def loss(tried: Networks) -> Tensor:
        return judge(tried(stop), stop_rows)

    some = torch.randint(inputs.shape[1], (max(nets.hidden),), generator=generator)
    hinged = nets.with_hinges(inputs[:, some.to(inputs.device)])
    last = hinged.last_hidden(inputs)
    mean = last.mean(1, keepdim=True)
    scale = (last - mean).square().mean(1, keepdim=True).sqrt()
    # a unit that is off in every row has nothing to say
    scale = torch.where(scale > 1e-6, scale, torch.inf)

    def place(slope: Tensor, intercept: Tensor) -> Networks:
        d = inputs.shape[2]
        found = _with_linear_path(hinged, slope[:, :d], intercept)
        found.deeper[-1] = slope[:, d:] / scale.mT
        found.biases[-1] = -(mean @ found.deeper[-1])
        return found

    straight, least = _best_ridge(inputs, y, lambda s, c: _with_linear_path(nets, s, c), loss)
    features = torch.cat([inputs, (last - mean) / scale], 2)
    bent, lost = _best_ridge(features, y, place, loss)
    return better(bent, lost, straight, least, everyone)[0]


def _with_linear_path(nets: Networks, slope: Tensor, intercept: Tensor) -> Networks:
    width = nets.hidden[0]
    first, bias = nets.first.clone(), nets.biases[0].clone()
    first[:, :, width:] = slope
    bias[:, :, width:] = intercept
    return Networks(first, nets.deeper, [bias, *nets.biases[1:]])


def _best_ridge(
    x: Float[Tensor, "nets rows d"],
    y: Float[Tensor, "nets rows m"],
    place: _Place,
    loss: Callable[[Networks], Tensor],
) -> tuple[Networks, Tensor]:
    """For each network the regression of y on x with the ridge of least loss, and that loss."""
    mean_x, mean_y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    x, y = x - mean_x, y - mean_y
    n = x.shape[1]
    dual = x.shape[2] > n
    gram = ((x @ x.mT) if dual else (x.mT @ x)).double() / n
    right = (y if dual else x.mT @ y / n).double()
    everyone = torch.arange(len(x), device=x.device)
    best, least = None, torch.full((len(x),), torch.inf, device=x.device)
    for ridge in RIDGES:
        root = torch.linalg.cholesky(gram + ridge * torch.eye(gram.shape[1]).to(gram))
        solved = torch.cholesky_solve(right, root).float()
        slope = x.mT @ solved / n if dual else solved
        tried = place(slope, mean_y - mean_x @ slope)
        best, least = better(tried, loss(tried), best or tried, least, everyone)
    assert best is not None
    return best, least
