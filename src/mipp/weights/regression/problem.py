"""One layer, row by row: what it takes in, its weights, and the noise of its outputs."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mipp.errors import InputError
from mipp.weights.regression.conjugate_gradient import Directions, descent


@dataclass(frozen=True)
class Pattern:
    """At most ``most`` weights that stay in every run of ``run`` neighbouring inputs of a row.

    ``Pattern(2, 4)`` is what sparse tensor cores take. A shorter run at the end of a row keeps the
    same share, rounded up.
    """

    most: int
    run: int

    def __post_init__(self) -> None:
        if not 0 < self.most < self.run:
            raise InputError(
                f"Pattern({self.most}, {self.run}); expected fewer weights that stay than there "
                "are in a run, at least one, such as Pattern(2, 4)."
            )

    def quota(self, n_inputs: int) -> int:
        """Weights that stay in a row of so many inputs."""
        whole, rest = divmod(n_inputs, self.run)
        return whole * self.most + -(-rest * self.most // self.run)

    def surplus(self, mask: Bool[Tensor, "m d"]) -> Bool[Tensor, "m d"]:
        """Weights in the mask whose run has more than it may keep."""
        count = self.runs(mask.long(), 0.0).sum(2)
        allowed = torch.full_like(count, self.most)
        rest = mask.shape[1] % self.run
        if rest:
            allowed[:, -1] = -(-rest * self.most // self.run)
        spare = (count > allowed).repeat_interleave(self.run, 1)[:, : mask.shape[1]]
        return mask & spare

    def removable(
        self, mask: Bool[Tensor, "m d"], scores: Float[Tensor, "m d"]
    ) -> Bool[Tensor, "m d"]:
        """Weights in the mask that are not among the best of their run, by ``scores``."""
        low = torch.where(mask, scores, torch.full_like(scores, -torch.inf))
        ranks = self.runs(low, -torch.inf).argsort(dim=2, descending=True, stable=True).argsort(2)
        allowed = torch.full(ranks.shape[1:2], self.most, device=mask.device)
        rest = mask.shape[1] % self.run
        if rest:
            allowed[-1] = -(-rest * self.most // self.run)
        beyond = (ranks >= allowed[None, :, None]).flatten(1)[:, : mask.shape[1]]
        return mask & beyond

    def runs(self, values: Tensor, fill: float) -> Tensor:
        """Values by row, run and place in the run, the last run filled up."""
        missing = -values.shape[1] % self.run
        padded = torch.nn.functional.pad(values, (0, missing), value=fill)
        return padded.view(len(values), -1, self.run)


@dataclass(frozen=True, eq=False)
class Rows:
    """One layer's rows, each a regression of one output on the inputs it reads.

    ``covariance`` (d, d): of the inputs (their second moments where no bias can take up a shift of
    the mean). ``weight`` (m, d). ``noise`` (m,): variance of the noise that each output is seen
    through, above 0. ``uses``: positions per example; nats are multiplied by it. ``ridge``: added
    to every input's variance, as a share of it.
    """

    covariance: Float[Tensor, "d d"]
    weight: Float[Tensor, "m d"]
    noise: Float[Tensor, " m"]
    uses: float | int = 1
    ridge: float | int = 1e-4
    correlation: Float[Tensor, "d d"] = field(init=False, repr=False)
    deviation: Float[Tensor, " d"] = field(init=False, repr=False)
    """Of each input; 1 for inputs that never vary."""
    varies: Bool[Tensor, " d"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not bool((self.noise > 0).all()):
            raise InputError(
                f"Rows was given noise of variance {float(self.noise.min())}; expected numbers "
                "above 0: without noise an output tells infinitely much."
            )
        deviation = self.covariance.diagonal().clamp_min(0).sqrt()
        varies = deviation > 0
        deviation = torch.where(varies, deviation, torch.ones_like(deviation))
        correlation = self.covariance / deviation / deviation.unsqueeze(1)
        correlation.diagonal().add_(self.ridge)
        object.__setattr__(self, "correlation", correlation)
        object.__setattr__(self, "deviation", deviation)
        object.__setattr__(self, "varies", varies)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and inputs."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def standardised(self) -> Float[Tensor, "m d"]:
        """Weights of the inputs in units of their deviations; 0 for inputs that never vary."""
        return self.weight.to(self.correlation.dtype) * self.deviation * self.varies

    @cached_property
    def directions(self) -> Directions:
        """The strongest ones of the inputs."""
        return Directions.of(self.correlation)

    @cached_property
    def inverse(self) -> Float[Tensor, "d d"]:
        """Of the correlations."""
        return torch.cholesky_inverse(torch.linalg.cholesky(self.correlation))

    def nats(self, errors: Float[Tensor, "m *k"]) -> Float[Tensor, "m *k"]:
        """Nats that each row has lost when its output is off by these variances."""
        noise = self.noise.to(errors.dtype).view(-1, *[1] * (errors.dim() - 1))
        return 0.5 * self.uses * torch.log1p(errors.clamp_min(0) / noise)


def fitted(
    rows: Rows,
    weight: Float[Tensor, "m d"],
    target: Float[Tensor, "m d"],
    mask: Bool[Tensor, "m d"],
    steps: int,
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]]:
    """`descent` with the layer's own correlations."""
    return descent(rows.correlation, rows.directions, weight, target, mask, steps)
