"""Several small networks of one shape, trained side by side as one batched network."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

RIDGES = (1e-4, 1e-2, 1.0)
"""Ridges tried for the linear start, as shares of a feature's variance; stopping rows choose."""

Judge = Callable[[Tensor, Tensor], Tensor]
"""Outputs (nets, rows, m) and row numbers (nets, rows) to losses (nets,)."""

Read = Callable[[Tensor], Tensor]
"""Row numbers (nets, rows) to what the networks take in, (nets, rows, d)."""


@dataclass(frozen=True)
class Training:
    """How networks are fitted.

    ``epochs``: passes over the rows at most. ``patience``: epochs without a better loss on the
    stopping rows after which training ends; each network keeps the weights of its own best epoch.
    ``batch_size``: rows. ``learning_rate``: of Adam.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float


class Networks:
    """Perceptrons with a linear path beside them, ``f(x) = x S + MLP(x)``, one per first index.

    ``first`` (nets, d, h + m) is the first layer and, in its last ``m`` columns, the linear path S.
    ``deeper`` are the layers above, each (nets, d_in, d_out); ``biases`` (nets, 1, d_out) one for
    each, the first one's included.
    """

    def __init__(self, first: Tensor, deeper: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        self.first, self.deeper, self.biases = first, list(deeper), list(biases)

    @classmethod
    def drawn(
        cls,
        nets: int,
        n_inputs: int,
        hidden: Sequence[int],
        n_outputs: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> "Networks":
        """Random weights (He et al. 2015); a linear path of zeros, and a small last layer."""

        def normal(d: int, h: int, gain: float) -> Tensor:
            weight = torch.randn(nets, d, h, generator=generator) * (gain / max(1, d)) ** 0.5
            return weight.to(device)

        widths = [*hidden, n_outputs]
        into = normal(n_inputs, hidden[0], 2.0)
        first = torch.cat([into, torch.zeros(nets, n_inputs, n_outputs, device=device)], 2)
        deeper = [normal(d, h, 2.0) for d, h in itertools.pairwise(widths)]
        deeper[-1] *= 0.1
        biases = [torch.zeros(nets, 1, hidden[0] + n_outputs, device=device)]
        biases += [torch.zeros(nets, 1, width, device=device) for width in widths[1:]]
        return cls(first, deeper, biases)

    @property
    def parameters(self) -> list[Tensor]:
        """All weights, in the order that ``rebuilt`` takes them."""
        return [self.first, *self.deeper, *self.biases]

    def rebuilt(self, parameters: Sequence[Tensor]) -> "Networks":
        """The same networks with other weights."""
        n = len(self.deeper) + 1
        return Networks(parameters[0], parameters[1:n], parameters[n:])

    def columns(self, which: Tensor) -> "Networks":
        """The networks without the features that the index or mask ``which`` leaves out."""
        return Networks(self.first[:, which], self.deeper, self.biases)

    def one(self, net: int) -> "Networks":
        """One of them, still with a first index."""
        return self.rebuilt([p[net : net + 1] for p in self.parameters])

    def begin(self, x: Float[Tensor, "nets rows d"]) -> Float[Tensor, "nets rows hm"]:
        """First layer and linear path, before anything that is not linear."""
        return torch.baddbmm(self.biases[0], x, self.first)

    def finish(self, z: Float[Tensor, "nets rows hm"]) -> Float[Tensor, "nets rows m"]:
        """From what ``begin`` gives to the outputs."""
        width = self.deeper[0].shape[1]
        hidden = z[:, :, :width]
        for weight, bias in zip(self.deeper, self.biases[1:], strict=True):
            hidden = torch.baddbmm(bias, torch.relu(hidden), weight)
        return z[:, :, width:] + hidden

    def __call__(self, x: Float[Tensor, "nets rows d"]) -> Float[Tensor, "nets rows m"]:
        """Outputs of each network for its own rows."""
        return self.finish(self.begin(x))


def linear_start(
    nets: Networks,
    read: Read,
    values: Float[Tensor, "n m"],
    fit_rows: Int[Tensor, "nets fit"],
    stop: tuple[Tensor, Int[Tensor, "nets stop"]],
    judge: Judge,
) -> Networks:
    """The networks with ridge regression as their linear path, the ridge chosen on stopping rows.

    A consumer is linear in what it takes in: it would take thousands of steps to find that out.
    """
    x = read(fit_rows)
    y = values[fit_rows]
    mean_x, mean_y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    x, y = x - mean_x, y - mean_y
    dual = x.shape[2] > x.shape[1]
    gram = ((x @ x.mT) if dual else (x.mT @ x)).double() / x.shape[1]
    right = (y if dual else x.mT @ y / x.shape[1]).double()
    width = nets.deeper[0].shape[1]
    best, least = nets, torch.full((len(x),), torch.inf, device=x.device)
    for ridge in RIDGES:
        root = torch.linalg.cholesky(gram + ridge * torch.eye(gram.shape[1]).to(gram))
        solved = torch.cholesky_solve(right, root).float()
        slope = x.mT @ solved / x.shape[1] if dual else solved
        first, bias = nets.first.clone(), nets.biases[0].clone()
        first[:, :, width:] = slope
        bias[:, :, width:] = mean_y - mean_x @ slope
        tried = Networks(first, nets.deeper, [bias, *nets.biases[1:]])
        loss = judge(tried(stop[0]), stop[1])
        best, least = _better(tried, loss, best, least)
    return best


def _better(
    tried: Networks, loss: Tensor, best: Networks, least: Tensor
) -> tuple[Networks, Tensor]:
    """For each network the weights with the lower loss, and that loss."""
    wins = (loss < least)[:, None, None]
    chosen = [
        torch.where(wins, a, b) for a, b in zip(tried.parameters, best.parameters, strict=True)
    ]
    return best.rebuilt(chosen), torch.minimum(loss, least)


def train(
    nets: Networks,
    read: Read,
    judge: Judge,
    fit_rows: Int[Tensor, "nets fit"],
    stop: tuple[Tensor, Int[Tensor, "nets stop"]],
    how: Training,
    generator: torch.Generator,
) -> Networks:
    """The networks after training with early stopping; those given are left as they were.

    Parameters:
        read: called anew for every batch.
        fit_rows: the rows that each network is fitted to.
        stop: what each network takes in of the rows that tell when to stop, and their numbers.
    """
    n_nets, n_fit = fit_rows.shape
    best = nets
    least = judge(nets(stop[0]), stop[1])
    # a caller's no_grad or inference_mode is about the caller's model
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [p.clone().requires_grad_() for p in nets.parameters]
        live = nets.rebuilt(leaves)
        optimizer = torch.optim.Adam(leaves, lr=how.learning_rate, fused=True)
        idle = 0
        for _ in range(how.epochs):
            # an order of its own for each network
            draw = torch.rand(n_nets, n_fit, generator=generator).argsort(1).to(fit_rows.device)
            shuffled = fit_rows.gather(1, draw)
            for rows in shuffled.split(how.batch_size, 1):
                if rows.shape[1] * 2 < min(how.batch_size, n_fit):
                    # too few rows to tell the error of each target
                    continue
                optimizer.zero_grad()
                judge(live(read(rows)), rows).sum().backward()
                optimizer.step()
            with torch.no_grad():
                now = live.rebuilt([p.detach() for p in leaves])
                loss = judge(now(stop[0]), stop[1])
                improved = bool((loss < least).any())
                if improved:
                    best, least = _better(now, loss, best, least)
            idle = 0 if improved else idle + 1
            if idle >= how.patience:
                break
    return best
