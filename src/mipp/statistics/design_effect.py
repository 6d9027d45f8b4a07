"""How much more an example loses than its positions would, if they were independent.

A consumer that runs at many positions is measured position by position. With errors ``delta_p`` of
its output and gradients ``g_p`` of the loss about it, the mean Fisher matrix ``F`` gives

    1/2 positions E[delta_p^T F delta_p]        while        1/2 E (sum_p g_p . delta_p)^2

is what an example loses, to second order. Errors and gradients at neighbouring positions are alike,
so the second is three to ten times the first in a convolution; and errors are larger where
gradients are, which counts at a single position too. Their ratio is what statisticians of surveys
call the design effect of a sample in clusters (Kish 1965, "Survey Sampling").

Which errors a removal will leave is not known yet. In their place stands what is left of each
channel once a random half of the others, within the window that the consumer sees, has predicted
what it can: a map's neighbouring positions tell about it what a refit will use. Through
its own columns ``W_i`` of the consumer's weight such a residual ``e_i`` changes the loss of an
example by ``s_i = sum_q e_i(q) h_i(q)``, with ``h`` the gradient about the input through this
consumer alone. So

    design effect = sum_i E s_i^2 / (positions sum_i E[(W_i e_i)^T F (W_i e_i)])

needs one gradient about the input, and neither residuals nor gradients are stored. ``F`` is that of
the same examples, so that a few large gradients cancel. A batch is measured on its own: the sums of
several processes can be added.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp import processes
from mipp.tracing.calls import (
    LINEAR,
    Call,
    input_rows,
    n_positions,
    output_rows,
    padded,
    weight_matrix,
)

EXAMPLES = 128
"""Examples that are enough where they are large; later batches are not looked at."""

ENOUGH = 2**22
"""Numbers of the input to look at before that: examples of a sure net are unlike each other, and
those of a small one cost little."""

CELLS = 2**26
"""Most numbers of a batch's input that are looked at; of the rest of its examples none."""

WINDOWS = 2048
"""Most positions of a batch whose windows are looked at."""

ROWS = 8192
"""Most positions of a batch from which channels learn to predict each other."""

PREDICTORS = 288
"""Most numbers that predict a channel: more would cost more than the layer itself."""

ROWS_PER_PREDICTOR = 4
"""Rows for each of them, so that they predict more than their own accidents."""

_CONV: tuple[Callable[..., Tensor], ...] = (
    nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d,
)  # fmt: skip
_CONV_TRANSPOSE: tuple[Callable[..., Tensor], ...] = (
    nn.functional.conv_transpose1d, nn.functional.conv_transpose2d, nn.functional.conv_transpose3d,
)  # fmt: skip


class DesignEffect:
    """Sums for the design effect of one consumer, over the batches that are passed back."""

    def __init__(self) -> None:
        self._examples, self._numbers = 0, 0
        self._together, self._alone = 0.0, 0.0

    @property
    def done(self) -> bool:
        """Whether enough was looked at, over all processes if each looks at as much."""
        size = processes.rank_and_size()[1]
        return self._examples * size >= EXAMPLES and self._numbers * size >= ENOUGH

    def update(
        self,
        call: Call,
        gradient: Tensor,
        n: int,
        real: Int[Tensor, " n"] | None,
        pick: Int[Tensor, " rows"],
        seed: int,
    ) -> None:
        """Adds the examples of one batch.

        Args:
            call: as the consumer was called.
            gradient: of the sum of the examples' losses about its output.
            n: examples in the batch. Nothing is added if the input does not have them in its first
                or second dimension.
            real: which positions are no padding; None for all.
            pick: positions that are sampled.
            seed: of the halves.
        """
        positions = n_positions(call)
        if positions % n:
            return
        call, gradient = _examples_first(call, gradient, n)
        if call.input.shape[0] % n:
            return
        taken = max(1, min(n, CELLS * n // call.input.numel()))
        share, cells = call.input.shape[0] // n * taken, positions // n * taken
        call, gradient = replace(call, input=call.input[:share]), gradient[:share]
        if call.kind in LINEAR:
            real = None if real is None else real[real < cells].to(gradient.device)
            s, alone = _of_tokens(call, gradient, real, seed)
            seen = cells if real is None else len(real)
        else:
            pick = pick[pick < cells].to(gradient.device)
            s, alone = _of_maps(call, gradient, pick, seed)
            seen = cells
        self._examples += taken
        self._numbers += call.input.numel()
        self._together += float(s.view(taken, -1, s.shape[-1]).sum(1).double().square().sum())
        self._alone += seen * float(alone)

    def all_reduce(self, what: str) -> None:
        """Adds the sums of all ranks, in a `mipp.processes.together` block."""
        sums = torch.tensor([self._together, self._alone], dtype=torch.float64)
        processes.all_reduce(f"the design effect of {what}", sums)
        self._together, self._alone = sums.tolist()

    @property
    def ratio(self) -> float:
        """The design effect; 1 where nothing was looked at, or nothing changes the loss."""
        found = self._together / self._alone if self._alone > 0 else 1.0
        return found if 0 < found < math.inf else 1.0


def _examples_first(call: Call, gradient: Tensor, n: int) -> tuple[Call, Tensor]:
    """The same call with the examples in dimension 0, where tokens have them in the second."""
    x = call.input
    if call.kind not in LINEAR:
        batched = x.dim() == call.weight.dim()
        return (call, gradient) if batched else (replace(call, input=x[None]), gradient[None])
    if x.dim() > 2 and x.shape[0] != n and x.shape[1] == n:
        return replace(call, input=x.movedim(1, 0)), gradient.movedim(1, 0)
    return call, gradient


def _of_tokens(
    call: Call, gradient: Tensor, real: Int[Tensor, " n"] | None, seed: int
) -> tuple[Float[Tensor, "rows c"], Float[Tensor, ""]]:
    """Products of residuals and gradients, one row a token; and the curvature at one token."""
    x, g = _wide(call.input).flatten(0, -2), _wide(gradient).flatten(0, -2)
    known = x if real is None else x[real]
    mixing, shift = _residual_map(known[:: -(-len(known) // ROWS)].unsqueeze(2), 0, seed)
    e = torch.addmm(-shift, x, mixing[:, :, 0].T)
    h = g @ weight_matrix(call.kind, call.weight.detach()).to(g.dtype)
    own = (e, h) if real is None else (e[real], h[real])
    return e * h, (own[0].square().mean(0) * own[1].square().mean(0)).sum()


def _of_maps(
    call: Call, gradient: Tensor, pick: Int[Tensor, " rows"], seed: int
) -> tuple[Float[Tensor, "n c"], Float[Tensor, ""]]:
    """Products of residuals and gradients, one row a map; and the curvature at one position."""
    x, g, weight = _wide(call.input), _wide(gradient), _wide(call.weight.detach())
    dims = weight.dim() - 3
    if call.kind == "conv":
        x = padded(call, x, tuple(g.shape[2:]))
        h = _CONV_TRANSPOSE[dims](g, weight, stride=call.stride, dilation=call.dilation)
        x, h = _same_space(x, h)
    else:
        wide = padded(call, g, tuple(x.shape[2:]))
        h = _CONV[dims](wide, weight, stride=call.stride, dilation=call.dilation)
        h, x = _same_space(h, x)
    e = _residual_maps(call, x, seed)
    products = (e * h).flatten(2).sum(2)
    if call.kind != "conv":
        return products, (_mean_square(e) * _mean_square(h)).sum()
    pick = pick[:: -(-len(pick) // WINDOWS)]
    whole = replace(call, input=e, padding=((0, 0),) * len(call.padding))
    windows = input_rows(whole, pick).unflatten(1, (x.shape[1], -1))
    felt = (output_rows(call, g, pick) @ weight.flatten(1)).view_as(windows)
    covariance = torch.einsum("rck,rcl->ckl", windows, windows)
    curvature = torch.einsum("rck,rcl->ckl", felt, felt)
    return products, (covariance * curvature).sum() / len(pick) ** 2


def _residual_maps(
    call: Call, x: Float[Tensor, "n c *space"], seed: int
) -> Float[Tensor, "n c *space"]:
    """What others do not tell about each channel, at each cell, within the consumer's window.

    Where half of the channels have more numbers in a window than may predict, at that cell alone.
    """
    sides, channels = tuple(call.weight.shape[2:]), x.shape[1]
    if call.kind != "conv" or channels // 2 * math.prod(sides) > PREDICTORS:
        sides = (1,) * len(sides)
    middle = [(side - 1) // 2 for side in sides]
    margins: list[int] = []
    for side, before, step in zip(sides, middle, call.dilation, strict=True):
        margins = [step * before, step * (side - 1 - before), *margins]
    seen = replace(
        call,
        kind="conv",
        input=nn.functional.pad(x, margins),
        weight=call.weight.new_empty(1, channels, *sides),
        stride=(1,) * len(sides),
        padding=((0, 0),) * len(sides),
    )
    total, generator = n_positions(seen), torch.Generator().manual_seed(seed)
    looked_at = torch.randint(total, (min(total, ROWS),), generator=generator).to(x.device)
    windows = input_rows(seen, looked_at).unflatten(1, (channels, -1))
    centre = int(np.ravel_multi_index(middle, sides))
    mixing, shift = _residual_map(windows, centre, seed)
    convolve, kernel = _CONV[len(sides) - 1], mixing.unflatten(2, sides)
    return convolve(seen.input, kernel, -shift, dilation=call.dilation)


def _same_space(large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of which one goes beyond the other, cut to what they share."""
    for dim in range(2, small.dim()):
        large = large.narrow(dim, 0, small.shape[dim])
    return large, small


def _mean_square(maps: Float[Tensor, "n c *space"]) -> Float[Tensor, " c"]:
    return maps.square().flatten(2).mean((0, 2))


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _residual_map(
    windows: Float[Tensor, "rows c cells"], centre: int, seed: int
) -> tuple[Float[Tensor, "c c cells"], Float[Tensor, " c"]]:
    """``A`` and ``b``: what others do not tell about each channel at the centre is ``A x - b``.

    A random half of the channels is predicted by the other half, and the other way round.
    """
    rows, channels, cells = windows.shape
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(channels, generator=generator).to(windows.device)
    mean, half = windows.mean(0), channels // 2
    apart = (windows - mean)[:, order]
    mixing = torch.zeros(channels, channels, cells, dtype=windows.dtype, device=windows.device)
    mixing[:, :, centre] = torch.eye(channels, device=windows.device)
    n = min(half, PREDICTORS // cells, rows // (ROWS_PER_PREDICTOR * cells))
    halves = (slice(n), slice(half, None)), (slice(channels - n, None), slice(half))
    for by, of in halves if n else ():
        known, wanted = apart[:, by].flatten(1), apart[:, of, centre]
        gram = (known.T @ known).double()
        scale = float(gram.diagonal().mean())
        gram.diagonal().add_(1e-4 * scale if scale > 0 else 1.0)
        told = torch.linalg.solve(gram, (known.T @ wanted).double())
        mixing[of, by] = -told.T.unflatten(1, (n, cells)).to(mixing.dtype)
    back = order.argsort()
    mixing = mixing[back][:, back]
    return mixing, mixing.flatten(1) @ mean.flatten()
