"""One pass over the batches: second moments of what each weight takes in, and how finely it counts.

As `mipp.statistics.collect` does for the consumers of groups, but for every weight, grouped
convolutions block by block, all calls of a weight together, and of the Fisher information only the
diagonal, which is all that single rows can use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mipp import processes
from mipp.covariance import dense, varies
from mipp.errors import CalibrationError
from mipp.statistics import Batch, CaptureConfig, Loss, blaming
from mipp.statistics.loss import pass_back, settle
from mipp.statistics.moments import Moments
from mipp.tracing.calls import (
    Call,
    CallHooks,
    counted,
    input_rows,
    n_positions,
    output_rows,
    token_mask,
)
from mipp.tracing.guards import measuring
from mipp.weights.layers import Layer


@dataclass(frozen=True, eq=False)
class Seen:
    """What was measured at one weight.

    ``uses``: positions an example, over all its calls. ``mean`` (g, d) and ``covariance`` (g, d, d)
    of what its blocks take in. ``fisher`` (g, m): Fisher information of the loss about each output
    at one position, in nats; None when it was not asked for.
    """

    uses: float
    mean: Float[Tensor, "g d"]
    covariance: Float[Tensor, "g d d"]
    fisher: Float[Tensor, "g m"] | None

    def moment(self, *, centred: bool) -> Float[Tensor, "g d d"]:
        """Covariance, or second moment about zero."""
        if centred:
            return self.covariance
        return self.covariance + self.mean.unsqueeze(2) * self.mean.unsqueeze(1)


def n_bytes(layer: Layer, config: CaptureConfig) -> int:
    """What the measurement of a layer takes."""
    _, d = layer.block
    return layer.groups * d * d * torch.empty((), dtype=config.dtype).element_size()


@processes.raises_on_all_ranks
def measure(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Sequence[Batch],
    *,
    loss: Loss | str | None,
    config: CaptureConfig,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Seen], str]:
    """Measures the layers by name; and says in words which loss was used.

    ``loss``: as for `mipp.statistics.collect`, None for no Fisher information and no backward pass.
    Under ``torch.distributed`` each process gives its own batches, and the sums are merged. What is
    raised in one process is raised in all. Padding does not count, as for units.

    Raises:
        CalibrationError: values that are not finite, or a layer that never ran or that the loss
            does not depend on.
    """
    rank, world = processes.rank_and_size()
    n_samples = processes.total("the number of examples", sum(len(batch) for batch in batches))
    recorders = {layer.name: _Recorder(layer, n, config, seed, n_samples)
                 for n, layer in enumerate(layers)}  # fmt: skip
    wanted_fisher = config.fisher_samples / world if loss is not None else 0.0
    settled: Loss | None = None
    how, seen = "", 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with measuring(model):
        for i, whole in enumerate(batches):
            number, batch = i * world + rank, whole.to(device)
            backward = loss is not None and seen < wanted_fisher
            seen += len(batch)
            anchor = torch.zeros((), device=device, requires_grad=True)
            mask = token_mask(batch.kwargs)

            def after(
                call: Call, output: Tensor, number: int = number, backward: bool = backward,
                anchor: Tensor = anchor, mask: Tensor | None = mask,
            ) -> Tensor:  # fmt: skip
                recorder = recorders.get(call.name)
                if recorder is None:
                    return output
                if backward:
                    output = output + anchor.to(output.dtype)
                recorder.see(call, output, number, backward, mask)
                return output

            with (
                blaming(number),
                torch.set_grad_enabled(backward),
                CallHooks(model, after=after, grouped=True),
            ):
                output = model(*batch.args, **batch.kwargs)
            if backward:
                assert loss is not None
                if settled is None:
                    settled, how = settle(loss, output, batch.target)
                generator = torch.Generator().manual_seed((seed * 7_919 + number) % 2**63)
                pass_back(settled, output, batch, generator)
            advance()
    for recorder in recorders.values():
        recorder.check(with_fisher=loss is not None)
    processes.agree("the loss", [how])
    return {n: r.finished(n_samples) for n, r in recorders.items()}, how


class _Recorder:
    """Moments and squared gradients of one weight, over one pass."""

    def __init__(
        self, layer: Layer, index: int, config: CaptureConfig, seed: int, n_samples: int
    ) -> None:
        self.layer, self.index, self.config, self.seed = layer, index, config, seed
        self.n_samples = n_samples
        self.moments: Moments | BlockMoments | None = None
        self.squares: Float[Tensor, "g m"] | None = None
        self.gradient_rows = self.positions = 0

    def see(
        self,
        call: Call,
        output: Tensor,
        batch_number: int,
        with_fisher: bool,
        mask: Tensor | None,
    ) -> None:
        real = counted(call, output, mask)
        self.positions += n_positions(call, output) if real is None else len(real)
        numbers = (self.seed, batch_number, self.index, call.call)
        pick = picked(self.layer, call, output, self.config, self.n_samples, numbers, mask)
        with torch.no_grad():
            rows = in_blocks(self.layer, input_rows(call, output, pick))
        if not bool(torch.isfinite(rows).all()):
            raise CalibrationError(
                f"The input of {self.layer.module} has NaN or infinite values in batch "
                f"{batch_number}. Check the model in evaluation mode on that batch "
                "(half precision overflows above 65504: use bfloat16 or float32)."
            )
        if self.moments is None:
            g, d = rows.shape[1:]
            self.moments = (Moments(d, rows.device, self.config.dtype) if g == 1
                            else BlockMoments(g, d, rows.device, self.config.dtype))  # fmt: skip
        self.moments.update(rows.squeeze(1) if isinstance(self.moments, Moments) else rows)
        if with_fisher:

            def keep_gradient(gradient: Tensor) -> None:
                m = self.layer.block[0]
                g = output_rows(call, gradient, pick).view(len(pick), self.layer.groups, m)
                squares = g.to(self.config.dtype).square().sum(0)
                self.squares = squares if self.squares is None else self.squares + squares
                self.gradient_rows += len(pick)

            output.register_hook(keep_gradient)

    def check(self, *, with_fisher: bool) -> None:
        """Raises where nothing was seen, or values that are not finite."""
        nothing = self.positions == 0 or (with_fisher and self.gradient_rows == 0)
        if self.layer.routed and nothing:
            raise CalibrationError(
                f"No token of the calibration batches reaches {self.layer.module}, as can be with "
                "the experts of a mixture. Give more batches, or name it in protect=."
            )
        if self.positions == 0:
            raise CalibrationError(
                f"{self.layer.module} ran on the first example but never on the calibration "
                "batches. Give batches of the kind that the model always takes."
            )
        if with_fisher and self.gradient_rows == 0:
            raise CalibrationError(
                f"No gradient reached {self.layer.module}: the loss does not depend on it. Use "
                "noise=0.1, which needs no gradient, or a loss that covers all outputs."
            )
        if self.squares is not None and not bool(torch.isfinite(self.squares).all()):
            raise CalibrationError(
                f"The gradient at the output of {self.layer.module} has NaN or infinite "
                "values. Run the model in float32 or bfloat16, or use noise=0.1, which needs "
                "no gradient."
            )

    def finished(self, n_samples: int) -> Seen:
        """What was seen, by all ranks together."""
        assert self.moments is not None
        name = self.layer.module
        self.moments.all_reduce(f"what {name} takes in")
        counts = torch.tensor(
            [self.positions, self.gradient_rows],
            dtype=torch.float64, device=self.moments.mean.device,
        )  # fmt: skip
        processes.all_reduce(f"the positions of {name}", counts)
        fisher = None
        if self.squares is not None:
            processes.all_reduce(f"the gradient at the output of {name}", self.squares)
            fisher = self.squares / float(counts[1])
        g, (_, d) = self.layer.groups, self.layer.block
        mean, found = self.moments.mean, self.moments
        covariance = dense(found.covariance()) if isinstance(found, Moments) else found.covariance()
        return Seen(float(counts[0]) / n_samples, mean.view(g, d), covariance.view(g, d, d), fisher)


class BlockMoments:
    """Mean and scatter of rows in blocks, those of different blocks apart; see `Moments`."""

    def __init__(self, g: int, d: int, device: torch.device, dtype: torch.dtype) -> None:
        self.count = 0
        self.mean: Float[Tensor, "g d"] = torch.zeros(g, d, dtype=dtype, device=device)
        self._measured = dtype
        self.scatter: Float[Tensor, "g d d"] = torch.zeros(g, d, d, dtype=dtype, device=device)

    def update(self, rows: Float[Tensor, "n g d"]) -> None:
        """Adds ``n`` rows."""
        if len(rows) == 0:  # an expert that no token of this batch came to
            return
        self._measured = rows.dtype
        mean = rows.mean(0)
        centred = (rows - mean).movedim(1, 0)
        self.scatter += centred.mT @ centred
        self._merge(len(rows), mean.to(self.mean.dtype))

    def _merge(self, n: int, mean: Float[Tensor, "g d"]) -> None:
        delta, total = mean - self.mean, self.count + n
        outer = delta.unsqueeze(2) * delta.unsqueeze(1)
        self.scatter += outer * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    def all_reduce(self, what: str) -> None:
        """Merges the moments of all ranks; see `Moments.all_reduce`."""
        if processes.rank_and_size()[1] == 1:
            return
        count = torch.tensor(float(self.count), dtype=torch.float64, device=self.mean.device)
        weighted = self.mean * self.count
        processes.all_reduce(f"the mean of {what}", count, weighted)
        mean = weighted / count
        delta = self.mean - mean
        self.scatter += delta.unsqueeze(2) * delta.unsqueeze(1) * float(self.count)
        processes.all_reduce(f"the scatter of {what}", self.scatter)
        self.mean, self.count = mean, int(count)

    def covariance(self) -> Float[Tensor, "g d d"]:
        """The scatter over the count; features that never vary have exactly 0."""
        full = self.scatter / max(self.count, 1)
        variance = full.diagonal(dim1=1, dim2=2)
        stays = varies(variance.flatten(), self.mean.flatten(), self._measured).view_as(variance)
        return full * (stays.unsqueeze(2) & stays.unsqueeze(1))


def picked(
    layer: Layer,
    call: Call,
    output: Tensor,
    config: CaptureConfig,
    n_samples: int,
    numbers: Sequence[int],
    mask: Bool[Tensor, "batch length"] | None = None,
) -> Int[Tensor, " rows"]:
    """Positions of a call that are looked at, rising; the numbers seed the draw.

    ``mask``: of the tokens that are no padding, see `mipp.tracing.calls.token_mask`.
    """
    real = counted(call, output, mask)
    total = n_positions(call, output) if real is None else len(real)
    if total == 0:
        return torch.arange(0, device=output.device)
    examples = call.input.shape[0] if call.input.dim() > 1 else 1
    wanted = max(config.rows_per_feature * layer.block[1], config.min_rows)
    n_rows = max(1, round(min(1.0, wanted * examples / (total * n_samples)) * total))
    if n_rows >= total:
        return (torch.arange(total) if real is None else real).to(output.device)
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number) % 2**63
    generator = torch.Generator().manual_seed(mixed)
    pick = torch.randperm(total, generator=generator)[:n_rows].sort().values
    return (pick if real is None else real[pick]).to(output.device)


def in_blocks(layer: Layer, rows: Float[Tensor, "n f"]) -> Float[Tensor, "n g d"]:
    """Rows of all inputs, cut into what each block takes in."""
    return rows.view(len(rows), layer.groups, layer.block[1])
