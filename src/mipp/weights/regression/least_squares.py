"""Rows of a layer as least-squares problems, and the best weights on the inputs they keep."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp.covariance import inverse_from
from mipp.errors import InputError
from mipp.weights.regression.conjugate_gradient import Directions, coarse_type, descent

MEMORY = 2**28
"""Bytes of second moments of the rows that are solved at once."""

EXACT = 2e10
"""Most operations for which all rows of a layer are solved exactly: some seconds on one core."""

STEPS = 25
"""Conjugate-gradient steps beyond that."""


@dataclass(frozen=True)
class Pattern:
    """At most ``most`` weights stay in every run of ``run`` neighbouring inputs of a row.

    ``Pattern(2, 4)`` is the pattern of sparse tensor cores. A shorter run at the end of a row keeps
    the same share, rounded up.

    Attributes:
        most: Weights that stay in a run.
        run: Length of a run.
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
        """Number of weights that stay in a row with this number of inputs."""
        whole, rest = divmod(n_inputs, self.run)
        return whole * self.most + -(-rest * self.most // self.run)

    def surplus(self, mask: Bool[Tensor, "m d"]) -> Bool[Tensor, "m d"]:
        """Weights in the mask whose run has more weights than it may keep."""
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
        """Weights in the mask that are not among the best of their run by ``scores``."""
        low = torch.where(mask, scores, torch.full_like(scores, -torch.inf))
        ranks = self.runs(low, -torch.inf).argsort(dim=2, descending=True, stable=True).argsort(2)
        allowed = torch.full(ranks.shape[1:2], self.most, device=mask.device)
        rest = mask.shape[1] % self.run
        if rest:
            allowed[-1] = -(-rest * self.most // self.run)
        beyond = (ranks >= allowed[None, :, None]).flatten(1)[:, : mask.shape[1]]
        return mask & beyond

    def runs(self, values: Tensor, fill: float) -> Tensor:
        """Values by row, run and place in the run; ``fill`` completes the last run."""
        missing = -values.shape[1] % self.run
        padded = torch.nn.functional.pad(values, (0, missing), value=fill)
        return padded.view(len(values), -1, self.run)


@dataclass(frozen=True, eq=False)
class Rows:
    """One layer's rows, each a regression of one output on the inputs it reads.

    Attributes:
        covariance: Of the inputs, shape ``(d, d)``; their second moments where no bias can absorb a
            shift of the mean.
        weight: Shape ``(m, d)``.
        noise: Variance of the noise that each output is seen through, above 0, shape ``(m,)``.
        uses: Positions per example; nats are multiplied by it.
        ridge: Added to every input's variance, as a share of ``scale``.
        scale: Of each input, what counts as its variance there, ``(d,)``; None for its variance.
        correlation: Of the inputs over their deviations, with the ridge, shape ``(d, d)``.
        deviation: Of each input, by ``scale``, shape ``(d,)``; 1 for inputs that never vary.
        varies: Whether each input varies, shape ``(d,)``.
    """

    covariance: Float[Tensor, "d d"]
    weight: Float[Tensor, "m d"]
    noise: Float[Tensor, " m"]
    uses: float | int = 1
    ridge: float | int = 1e-4
    scale: Float[Tensor, " d"] | None = None
    correlation: Float[Tensor, "d d"] = field(init=False, repr=False)
    deviation: Float[Tensor, " d"] = field(init=False, repr=False)
    varies: Bool[Tensor, " d"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not bool((self.noise > 0).all()):
            raise InputError(
                f"Rows was given noise of variance {float(self.noise.min())}; expected numbers "
                "above 0: without noise an output has infinite information."
            )
        variance = self.covariance.diagonal().clamp_min(0)
        varies = variance > 0
        deviation = (variance if self.scale is None else self.scale).sqrt()
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
        return self.weight.to(self.correlation.dtype) * (self.deviation * self.varies)

    @cached_property
    def directions(self) -> Directions:
        """The strongest directions of the inputs."""
        return Directions.of(self.correlation)

    @cached_property
    def coarse(self) -> Float[Tensor, "d d"]:
        """The correlations for products that may be coarse."""
        return self.correlation.to(coarse_type(self.correlation))

    @cached_property
    def inverse(self) -> Float[Tensor, "d d"]:
        """The inverse of the correlations."""
        return inverse_from(torch.linalg.cholesky(self.correlation))

    def nats(self, errors: Float[Tensor, "m *k"]) -> Float[Tensor, "m *k"]:
        """Nats that each row has lost when errors of its output have these variances."""
        noise = self.noise.to(errors.dtype).view(-1, *[1] * (errors.dim() - 1))
        return 0.5 * self.uses * torch.log1p(errors.clamp_min(0) / noise)


def fitted(
    rows: Rows,
    weight: Float[Tensor, "m d"],
    target: Float[Tensor, "m d"],
    mask: Bool[Tensor, "m d"],
    steps: int,
    coarse: bool = False,
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]]:
    """`descent` with the layer's own correlations, or its coarse ones."""
    correlation = rows.coarse if coarse else rows.correlation
    return descent(correlation, rows.directions, weight, target, mask, steps)


def best_weights(
    rows: Rows,
    mask: Bool[Tensor, "m d"],
    across: Float[Tensor, "m d"] | None = None,
    most: float | int = EXACT,
) -> Float[Tensor, "m d"]:
    """Least-squares weights on the inputs in the mask, zero elsewhere.

    The ridge pulls towards the current weights. Weights of inputs that never vary do not change.

    Args:
        rows: The rows of a layer.
        mask: The inputs that each row keeps.
        across: Covariance of the desired outputs with the inputs; None for the outputs of the
            current weights.
        most: Operations up to which each row is solved by itself (Cholesky, k^3 / 3 for k weights).
            Beyond them, conjugate gradients take steps for all rows together.
    """
    target = _target(rows, across)
    found = torch.zeros_like(rows.standardised)
    if float((mask.sum(1).double() ** 3).sum()) / 3 > most:
        found = fitted(rows, rows.standardised, target, mask, STEPS)[0]
    else:
        for chosen, inputs in supports(rows, mask):
            found[chosen.unsqueeze(1), inputs] = _solved(rows, target, chosen, inputs)
    made = (found / rows.deviation).to(rows.weight.dtype)
    # nothing is known of inputs that never vary: the kept weights of these stay as they are
    return torch.where(mask & ~rows.varies, rows.weight, made)


def errors_left(rows: Rows, mask: Bool[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Variance of each output that the inputs in the mask cannot explain."""
    target = _target(rows)
    left = (target * rows.standardised).sum(1)
    for chosen, inputs in supports(rows, mask):
        solved = _solved(rows, target, chosen, inputs)
        left[chosen] -= (solved * target[chosen.unsqueeze(1), inputs]).sum(1)
    return left.clamp_min(0)


def supports(
    rows: Rows, mask: Bool[Tensor, "m d"]
) -> Iterator[tuple[Int[Tensor, " r"], Int[Tensor, "r k"]]]:
    """Rows that keep equally many inputs, as many at a time as fit the memory, and the inputs."""
    counts = mask.sum(1)
    size = rows.correlation.element_size()
    for count in torch.unique(counts).tolist():
        same = torch.nonzero(counts == count).flatten()
        if count == 0:
            continue
        for chosen in same.split(max(1, MEMORY // (size * count * count))):
            inputs = torch.nonzero(mask[chosen])[:, 1].view(len(chosen), count)
            yield chosen, inputs


def moments(rows: Rows, inputs: Int[Tensor, "r k"]) -> Float[Tensor, "r k k"]:
    """Correlations of each row's own inputs."""
    return rows.correlation[inputs.unsqueeze(2), inputs.unsqueeze(1)]


def _target(rows: Rows, across: Float[Tensor, "m d"] | None = None) -> Float[Tensor, "m d"]:
    """Covariance of the desired outputs with standardised inputs, and the ridge's pull."""
    if across is None:
        return rows.standardised @ rows.correlation
    return across.to(rows.correlation.dtype) / rows.deviation + rows.ridge * rows.standardised


def _solved(
    rows: Rows, target: Float[Tensor, "m d"], chosen: Int[Tensor, " r"], inputs: Int[Tensor, "r k"]
) -> Float[Tensor, "r k"]:
    root = torch.linalg.cholesky(moments(rows, inputs))
    mine = target[chosen].gather(1, inputs).unsqueeze(2)
    return torch.cholesky_solve(mine, root).squeeze(2)
