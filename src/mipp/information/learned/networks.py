"""Several small networks of one shape, trained side by side as one batched network."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

RIDGES = (1e-4, 1e-2, 1.0)
"""Ridges tried for the linear start, as shares of a feature's variance; stopping rows choose."""

LEAST_GAIN = 1e-4
"""Smallest fall of the loss that counts, as a share of the loss of predicting nothing."""

Judge = Callable[[Tensor, Tensor], Tensor]
"""Outputs (nets, rows, m) and row numbers (nets, rows) to losses (nets,)."""

Read = Callable[[Tensor, Tensor], Tensor]
"""Row numbers (nets, rows) and the networks (nets,) they are for, to the inputs (nets, rows, d)."""


@dataclass(frozen=True)
class Training:
    """How networks are fitted.

    Attributes:
        epochs: Most passes over the rows.
        patience: Epochs without a better loss on the early-stopping rows after which training ends.
            Each network keeps the weights of its own best epoch.
        batch_size: Rows in a step.
        learning_rate: Of Adam.
    """

    epochs: int
    patience: int
    batch_size: int
    learning_rate: float


class Networks:
    """Perceptrons with a linear path beside them, ``f(x) = x S + MLP(x)``, one per first index.

    Attributes:
        first: The first layer and, in its last ``m`` columns, the linear path S, shape
            ``(nets, d, h + m)``.
        deeper: The layers above, each of shape ``(nets, d_in, d_out)``.
        biases: One for each layer, the first included, each of shape ``(nets, 1, d_out)``.
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
        """The networks with other weights."""
        n = len(self.deeper) + 1
        return Networks(parameters[0], parameters[1:n], parameters[n:])

    def columns(self, which: Tensor) -> "Networks":
        """The networks without the features that the index or mask ``which`` leaves out."""
        return Networks(self.first[:, which], self.deeper, self.biases)

    def begin(self, x: Float[Tensor, "nets rows d"]) -> Float[Tensor, "nets rows hm"]:
        """First layer and linear path, before any nonlinearity."""
        return torch.baddbmm(self.biases[0], x, self.first)

    def finish(self, z: Float[Tensor, "nets rows hm"]) -> Float[Tensor, "nets rows m"]:
        """From the result of ``begin`` to the outputs."""
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
    stop_rows: Int[Tensor, "nets stop"],
    judge: Judge,
) -> Networks:
    """The networks with ridge regression as their linear path; stopping rows choose the ridge.

    A consumer is linear in its inputs, and gradient steps would need thousands to find that out.

    Args:
        nets: As they were drawn.
        read: The inputs of some rows.
        values: The targets of all rows.
        fit_rows: The rows that each network is fitted to.
        stop_rows: The early-stopping rows of each network.
        judge: The loss.
    """
    everyone = torch.arange(len(fit_rows), device=fit_rows.device)
    x, stop = read(fit_rows, everyone), read(stop_rows, everyone)
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
        best, least = _better(tried, judge(tried(stop), stop_rows), best, least, everyone)
    return best


def train(
    nets: Networks,
    read: Read,
    judge: Judge,
    fit_rows: Int[Tensor, "nets fit"],
    stop_rows: Int[Tensor, "nets stop"],
    how: Training,
    generator: torch.Generator,
) -> Networks:
    """The networks after training with early stopping; those given are left unchanged.

    Args:
        nets: Where training starts.
        read: Called again for every batch, and once for the early-stopping rows.
        judge: The loss.
        fit_rows: The rows that each network is fitted to.
        stop_rows: The early-stopping rows of each network.
        how: Epochs and rates.
        generator: Of the order of the rows.
    """
    n_fit = fit_rows.shape[1]
    # a caller's no_grad or inference_mode is about the caller's model
    with torch.inference_mode(False), torch.enable_grad():
        going = torch.arange(len(fit_rows), device=fit_rows.device)
        stop = read(stop_rows, going)
        with torch.no_grad():
            start = nets(stop)
            best, least = nets, judge(start, stop_rows)
            gain = LEAST_GAIN * judge(torch.zeros_like(start), stop_rows)
        mark, idle = least.clone(), torch.zeros_like(going)
        optimizer = torch.optim.Adam(_leaves(nets), lr=how.learning_rate, fused=True)
        for _ in range(how.epochs):
            live = nets.rebuilt(optimizer.param_groups[0]["params"])
            order = torch.randperm(n_fit, generator=generator).to(fit_rows.device)
            for rows in fit_rows[going][:, order].split(how.batch_size, 1):
                if 2 * rows.shape[1] < min(how.batch_size, n_fit):
                    # too few rows to estimate the error of each target
                    continue
                optimizer.zero_grad()
                judge(live(read(rows, going)), rows).sum().backward()
                optimizer.step()
            with torch.no_grad():
                loss = judge(live(stop), stop_rows[going])
                best, least = _better(live, loss, best, least, going)
            counts = loss < mark[going] - gain[going]
            mark[going] = torch.where(counts, loss, mark[going])
            idle[going] = torch.where(counts, 0, idle[going] + 1)
            stay = idle[going] < how.patience
            if not bool(stay.any()):
                break
            if int(stay.sum()) <= 0.8 * len(going):
                optimizer = _fewer(optimizer, stay, how)
                going, stop = going[stay], stop[stay]
    return best


def _leaves(nets: Networks) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in nets.parameters]


def _fewer(optimizer: torch.optim.Adam, stay: Tensor, how: Training) -> torch.optim.Adam:
    """The optimizer of only those networks that still train, with its state."""
    old = optimizer.param_groups[0]["params"]
    new = [p.detach()[stay].requires_grad_() for p in old]
    smaller = torch.optim.Adam(new, lr=how.learning_rate, fused=True)
    for before, after in zip(old, new, strict=True):
        smaller.state[after] = {
            name: value if name == "step" else value[stay]
            for name, value in optimizer.state[before].items()
        }
    return smaller


def _better(
    tried: Networks, loss: Tensor, best: Networks, least: Tensor, which: Tensor
) -> tuple[Networks, Tensor]:
    """The best weights and losses so far, updated where networks ``which`` have lower losses."""
    wins = loss < least[which]
    if not bool(wins.any()):
        return best, least
    weights = [p.clone() for p in best.parameters]
    for new, kept in zip(tried.parameters, weights, strict=True):
        kept[which[wins]] = new[wins]
    least = least.clone()
    least[which[wins]] = loss[wins]
    return best.rebuilt(weights), least
