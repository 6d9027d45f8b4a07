"""Several small networks of one shape, trained side by side as one batched network."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
    def of(cls, parameters: Sequence[Tensor]) -> "Networks":
        """Networks from their `parameters`: the first layer, deeper ones, and as many biases."""
        n = (len(parameters) + 1) // 2
        return cls(parameters[0], parameters[1:n], parameters[n:])

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
        """All weights, in the order that ``of`` takes them."""
        return [self.first, *self.deeper, *self.biases]

    def rebuilt(self, parameters: Sequence[Tensor]) -> "Networks":
        """The networks with other weights."""
        return Networks.of(parameters)

    def columns(self, which: Tensor) -> "Networks":
        """The networks without the features that the index or mask ``which`` leaves out."""
        return Networks(self.first[:, which], self.deeper, self.biases)

    @property
    def hidden(self) -> list[int]:
        """Widths of the hidden layers."""
        return [layer.shape[1] for layer in self.deeper]

    def with_hinges(self, x: Float[Tensor, "nets some d"]) -> "Networks":
        """The networks with biases that put the hinge of each hidden unit on one of these inputs.

        Args:
            x: As many inputs of each network as its widest hidden layer has units, or more.
        """
        biases = [bias.clone() for bias in self.biases]
        z = x @ self.first[:, :, : self.hidden[0]]
        for layer, width in enumerate(self.hidden):
            bias = -z.diagonal(dim1=1, dim2=2)[:, None, :width]
            biases[layer][:, :, :width] = bias
            z = torch.relu(z + bias) @ self.deeper[layer]
        return Networks(self.first, self.deeper, biases)

    def last_hidden(self, x: Float[Tensor, "nets rows d"]) -> Float[Tensor, "nets rows h"]:
        """What the last layer reads."""
        width = self.hidden[0]
        z = torch.baddbmm(self.biases[0][:, :, :width], x, self.first[:, :, :width])
        for weight, bias in zip(self.deeper[:-1], self.biases[1:-1], strict=True):
            z = torch.baddbmm(bias, torch.relu(z), weight)
        return torch.relu(z)

    def begin(self, x: Float[Tensor, "nets rows d"]) -> Float[Tensor, "nets rows hm"]:
        """First layer and linear path, before any nonlinearity."""
        return torch.baddbmm(self.biases[0], x, self.first)

    def finish(self, z: Float[Tensor, "nets rows hm"]) -> Float[Tensor, "nets rows m"]:
        """From the result of ``begin`` to the outputs."""
        width = self.hidden[0]
        hidden = z[:, :, :width]
        for weight, bias in zip(self.deeper, self.biases[1:], strict=True):
            hidden = torch.baddbmm(bias, torch.relu(hidden), weight)
        return z[:, :, width:] + hidden

    def __call__(self, x: Float[Tensor, "nets rows d"]) -> Float[Tensor, "nets rows m"]:
        """Outputs of each network for its own rows."""
        return self.finish(self.begin(x))


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
                best, least = better(live, loss, best, least, going)
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


def better(
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
