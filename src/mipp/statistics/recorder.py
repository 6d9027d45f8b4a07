"""What is measured at one layer: moments of its inputs, and gradients about its outputs."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mipp import processes
from mipp.checks import check_fields
from mipp.covariance import Covariance, dense
from mipp.errors import CalibrationError, InputError
from mipp.moments import Moments, Squares
from mipp.statistics.design_effect import DesignEffect
from mipp.statistics.loss_per_nat import LossPerNat
from mipp.tracing.calls import (
    Call,
    counted,
    input_rows,
    n_positions,
    output_rows,
)
from mipp.tracing.sampling import consumer_seed, n_features, sampled_positions, weight_seed

OF_MOMENTS, OF_ROWS = 4.0, 12.0
"""Rows per feature for the second moments of consumers, and wherever rows have more to tell."""


@dataclass(frozen=True)
class CaptureConfig:
    """How much is measured.

    Attributes:
        rows_per_feature: rows (examples x positions) sampled for each consumer, as a multiple of
            its number of features. None is 4 for units in closed form, and 12 for single weights
            and for estimators that learn from rows.
        min_rows: rows sampled at least.
        fisher_samples: examples that go through the backward pass, in whole batches. None is 512,
            but at most a quarter of all, and 64 at least.
        dtype: number type of the sums.

    Examples:
        >>> CaptureConfig(min_rows=500).min_rows
        500
    """

    rows_per_feature: float | None = None
    min_rows: int = 4096
    fisher_samples: int | None = None
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("rows_per_feature", "min_rows", "fisher_samples"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(
                    f"CaptureConfig({name}={getattr(self, name)}); expected a number above 0."
                )
        if not self.dtype.is_floating_point:
            raise InputError(f"CaptureConfig(dtype={self.dtype}); expected torch.float64.")

    def rows(self, features: int, each: float) -> float:
        """Rows wanted for so many features; ``each``: for one of them, unless that is set."""
        return max((self.rows_per_feature or each) * features, self.min_rows)


@dataclass(frozen=True, eq=False)
class Statistics:
    """What was measured at one weight.

    Of a consumer of units results have no dimension ``g`` for blocks; of a weight whose entries are
    pruned one by one they do, as grouped convolutions have several.

    Attributes:
        rows: how many rows went into the covariance.
        uses: positions of an example, on average.
        mean (g, d): of the input ``X``.
        covariance (g, d, d): of the input; of a consumer as a `Factor` where there are far fewer
            rows than features, and of one where variances alone are wanted with blocks of 1.
        fisher: Fisher information of the loss about the output ``Y`` at one position, in nats: the
            matrix (m, m) for a consumer, the diagonal (g, m) otherwise. None where no loss was
            given.
    """

    rows: int
    uses: float
    mean: Float[Tensor, "*g d"]
    covariance: Covariance | Float[Tensor, "g d d"]
    fisher: Float[Tensor, "m m"] | Float[Tensor, "g m"] | None
    design_effect: float = 1.0

    @property
    def loss_per_nat(self) -> LossPerNat:
        """For what is reported; nats are left as they are where no loss was measured."""
        return LossPerNat() if self.fisher is None else LossPerNat(self.design_effect, self.rows)

    def moment(self, *, centred: bool) -> Float[Tensor, "*g d d"]:
        """Covariance of the input, or its second moment about zero."""
        covariance = dense(self.covariance)
        if centred:
            return covariance
        return covariance + self.mean.unsqueeze(-1) * self.mean.unsqueeze(-2)


@dataclass(frozen=True)
class Site:
    """A weight to measure at.

    Attributes:
        name: of the layer, for errors.
        weight: name of the parameter.
        call: number of the call that counts, for a consumer of units; None for all calls together,
            block by block, with the diagonal of the Fisher information.
        index: seeds the draw of positions.
        routed: whether the positions that it gets depend on values, as for the tokens of an expert.
        variances: whether the features of a consumer are blocks of their own, so that covariances
            are not computed.
    """

    name: str
    weight: str
    call: int | None
    index: int
    routed: bool
    variances: bool = False


class Recorder:
    """Moments and gradients at one site, over one pass.

    A loss has to be passed back after each recorded call that is ``with_fisher``.
    """

    def __init__(
        self, site: Site, config: CaptureConfig, seed: int, n_samples: int, n_fisher: int
    ) -> None:
        self.site, self.config, self.seed = site, config, seed
        self.n_samples, self.n_fisher = n_samples, n_fisher
        self.positions = 0
        self.moments: Moments | None = None
        self.fisher: Moments | Squares | None = None
        self.effect = DesignEffect()
        self._copies = False

    def add_inputs(
        self, call: Call, batch_number: int, mask: Bool[Tensor, "batch length"] | None
    ) -> None:
        """Adds what one call takes in."""
        real = counted(call, mask)
        n_real = n_positions(call) if real is None else len(real)
        if n_real == 0:
            return
        self.positions += n_real
        pick = self._picked(call, batch_number, mask)
        with torch.no_grad():
            rows = input_rows(call, pick.to(call.input.device))
        if not bool(torch.isfinite(rows).all()):
            raise CalibrationError(
                f"The input of {self.site.name} has NaN or infinite values in "
                f"batch {batch_number}. Check the model in evaluation mode on that batch "
                "(half precision overflows above 65504: use bfloat16 or float32)."
            )
        if self.moments is None:
            blocks = rows.shape[1] if self.site.variances else self._blocks(call)
            d = rows.shape[1] // (blocks or 1)
            self.moments = Moments(d, rows.device, self.config.dtype, blocks)
        self.moments.update(rows)

    def watch_gradient(
        self,
        call: Call,
        output: Tensor,
        batch_number: int,
        mask: Bool[Tensor, "batch length"] | None,
        size: int,
    ) -> None:
        """Adds the gradient about an output, once the loss is passed back."""
        real = counted(call, mask)
        if (n_positions(call) if real is None else len(real)) == 0:
            return
        pick = self._picked(call, batch_number, mask)
        felt, blocks = self._felt(call, batch_number, mask, pick), self._blocks(call)

        def add_gradient(gradient: Tensor) -> None:
            g = output_rows(call, gradient, felt.to(gradient.device))
            if self.fisher is None:
                m, device, dtype = g.shape[1], g.device, self.config.dtype
                self.fisher = (
                    Moments(m, device, dtype)
                    if blocks is None
                    else Squares(m // blocks, device, dtype, blocks)
                )
            self.fisher.update(g)

        output.register_hook(add_gradient)
        if blocks is None and not self.site.routed:
            self._watch(call, output, size, real, pick, batch_number)

    def _blocks(self, call: Call) -> int | None:
        """Blocks of a weight whose entries are pruned one by one; None for a consumer of units."""
        return None if self.site.call is not None else call.groups

    def _felt(
        self,
        call: Call,
        batch: int,
        mask: Bool[Tensor, "batch length"] | None,
        pick: Int[Tensor, " picked"],
    ) -> Int[Tensor, " felt"]:
        """The positions whose gradients are looked at: of few examples, so that many of each."""
        if self.site.call is None:
            return pick
        m = call.weight.numel() // n_features(call)
        wanted = self.config.rows(m, OF_MOMENTS)
        seed = weight_seed(self.seed, batch, self.site.index, call.call)
        return sampled_positions(call, mask, wanted, self.n_fisher, seed)

    def _watch(
        self,
        call: Call,
        output: Tensor,
        size: int,
        real: Int[Tensor, " n"] | None,
        pick: Int[Tensor, " picked"],
        batch: int,
    ) -> None:
        """Adds to the design effect once the loss is passed back."""
        effect = self.effect
        if effect.done:
            return
        seen = replace(call, input=call.input.clone()) if self._copies else call
        version = seen.input._version  # noqa: SLF001 - the only way to see in-place changes

        def add(gradient: Tensor) -> None:
            if seen.input._version != version:  # noqa: SLF001
                self._copies = True  # from the next batch on
                return
            seed = consumer_seed(self.seed, batch, self.site.index)
            effect.update(seen, gradient, size, real, pick, seed)

        output.register_hook(add)

    def _picked(
        self, call: Call, batch: int, mask: Bool[Tensor, "batch length"] | None
    ) -> Int[Tensor, " rows"]:
        """The positions that are looked at; of a consumer in the order of the draw."""
        config, site, of_weight = self.config, self.site, self.site.call is None
        seed = (
            weight_seed(self.seed, batch, site.index, call.call)
            if of_weight
            else consumer_seed(self.seed, batch, site.index)
        )
        wanted = config.rows(n_features(call), OF_ROWS if of_weight else OF_MOMENTS)
        pick = sampled_positions(call, mask, wanted, self.n_samples, seed)
        return pick.sort().values if of_weight else pick

    def check(self, *, with_fisher: bool) -> None:
        """Raises `CalibrationError` where too little was seen, or values that are not finite."""
        name, gradients = self.site.name, 0 if self.fisher is None else self.fisher.count
        if self.site.routed and (self.positions == 0 or (with_fisher and gradients == 0)):
            raise CalibrationError(
                f"No token of the calibration batches reaches {name}, as can be with the "
                "experts of a mixture. Give more batches (to each process), or name it in protect=."
            )
        if self.positions == 0:
            raise CalibrationError(
                f"{name} ran on the first example but never on the calibration batches. Give "
                "batches of the kind that the model always takes, in evaluation mode too."
            )
        if with_fisher and gradients == 0:
            raise CalibrationError(
                f"No gradient reached {name}: the loss does not depend on it. Use "
                "noise=0.1, which needs no gradient, or a loss that covers all outputs."
            )
        if self.fisher is not None:  # before it is merged, so that the rank is known
            _check_finite(self.fisher.finite, name)

    def merged(self) -> Statistics:
        """What all ranks have seen together; the recorder keeps nothing of it."""
        name, moments, fisher = self.site.name, self.moments, None
        assert moments is not None
        moments.all_reduce(f"what {name} takes in")
        positions = processes.total(f"the positions of {name}", self.positions)
        if self.fisher is not None:
            self.fisher.all_reduce(f"the gradient at the output of {name}")
            fisher = self.fisher.second_moment()
            _check_finite(bool(torch.isfinite(fisher).all()), name)
            self.effect.all_reduce(name)
        self.moments = self.fisher = None
        uses, mean, ratio = positions / self.n_samples, moments.mean, self.effect.ratio
        return Statistics(moments.count, uses, mean, moments.covariance(), fisher, ratio)


def _check_finite(finite: bool, name: str) -> None:
    if not finite:
        raise CalibrationError(
            f"The gradient at the output of {name} has NaN or infinite values. Run "
            "the model in float32 or bfloat16, or use noise=0.1, which needs no gradient."
        )
