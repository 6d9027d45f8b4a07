"""One pass over the calibration batches: what each consumer takes in, and how finely it matters."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mipp import processes
from mipp.checks import check_fields
from mipp.covariance import Covariance, dense
from mipp.errors import CalibrationError, InputError
from mipp.records import Consumer
from mipp.statistics.batches import Batch, blaming
from mipp.statistics.loss import Loss, pass_back, settle
from mipp.statistics.moments import Moments
from mipp.tracing.calls import (
    LINEAR,
    Call,
    CallHooks,
    counted,
    input_rows,
    n_positions,
    output_rows,
    token_mask,
)
from mipp.tracing.guards import measuring


@dataclass(frozen=True)
class CaptureConfig:
    """How much is measured.

    ``rows_per_feature``: rows (examples x positions) sampled for each consumer, as a multiple of
    its number of features; ``min_rows`` at the least. ``fisher_samples``: examples that go through
    the backward pass. ``dtype``: in which the sums are kept.
    """

    rows_per_feature: float = 12.0
    min_rows: int = 4096
    fisher_samples: int = 2048
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("rows_per_feature", "min_rows", "fisher_samples"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(
                    f"CaptureConfig({name}={getattr(self, name)}); expected a number above 0."
                )
        if not self.dtype.is_floating_point:
            raise InputError(f"CaptureConfig(dtype={self.dtype}); expected torch.float64.")


@dataclass(frozen=True, eq=False)
class Statistics:
    """What was measured at one consumer.

    ``covariance`` (d, d; as a `Factor` where there are far fewer rows than features) and ``mean``
    (d,) of its input ``X``; ``fisher`` (m, m): Fisher
    information of the loss about its output ``Y`` at one position, in nats, or None when it was not
    asked for.
    ``rows``: how many rows went into the covariance.
    """

    rows: int
    mean: Float[Tensor, " d"]
    covariance: Covariance
    fisher: Float[Tensor, "m m"] | None


class _Recorder:
    """Moments and gradients of one consumer, over one pass."""

    def __init__(self, index: int, config: CaptureConfig, seed: int, n_samples: int) -> None:
        self.index, self.config, self.seed, self.n_samples = index, config, seed, n_samples
        self.moments: Moments | None = None
        self.fisher: Moments | None = None
        self.gradient_rows = 0

    def see(
        self,
        call: Call,
        output: Tensor,
        batch_number: int,
        with_fisher: bool,
        mask: Tensor | None,
    ) -> None:
        real = counted(call, output, mask)
        total = n_positions(call, output) if real is None else len(real)
        if total == 0:
            return
        features = self._features(call)
        examples = call.input.shape[0] if call.input.dim() > 1 else 1
        share = min(1.0, max(
            self.config.rows_per_feature * features, self.config.min_rows
        ) / (total / max(examples, 1) * self.n_samples))  # fmt: skip
        generator = torch.Generator().manual_seed(
            (self.seed * 1_000_003 + batch_number * 10_007 + self.index) % 2**63
        )
        n_rows = max(1, round(share * total))
        pick = torch.randperm(total, generator=generator)[:n_rows] if n_rows < total else (
            torch.arange(total)
        )  # fmt: skip
        pick = pick if real is None else real[pick]
        with torch.no_grad():
            rows = input_rows(call, output, pick.to(output.device))
        if not bool(torch.isfinite(rows).all()):
            raise CalibrationError(
                f"The input of {call.name.removesuffix('.weight')} has NaN or infinite values in "
                f"batch {batch_number}. Check the model in evaluation mode on that batch "
                "(half precision overflows above 65504: use bfloat16 or float32)."
            )
        if self.moments is None:
            self.moments = Moments(rows.shape[1], rows.device, self.config.dtype)
        self.moments.update(rows)
        if with_fisher:

            def keep_gradient(gradient: Tensor) -> None:
                g = output_rows(call, gradient, pick.to(gradient.device))
                if self.fisher is None:
                    self.fisher = Moments(g.shape[1], g.device, self.config.dtype)
                self.fisher.update(g)

            output.register_hook(keep_gradient)

    @staticmethod
    def _features(call: Call) -> int:
        if call.kind in LINEAR:
            return call.input.shape[-1]
        if call.kind == "conv_transpose":
            return call.weight.shape[0]
        return call.weight[0].numel()


@processes.raises_on_all_ranks
def capture(
    model: nn.Module,
    consumers: Mapping[int, Consumer],
    batches: Sequence[Batch],
    *,
    loss: Loss | str | None,
    config: CaptureConfig | None = None,
    seed: int = 0,
    advance: Callable[[], None] | None = None,
) -> tuple[dict[int, Statistics], str]:
    """Measures every consumer in one pass over the batches.

    Parameters:
        consumers: index -> consumer, as the graph lists them.
        loss: how finely outputs matter (see `mipp.statistics.loss`); None measures no Fisher
            information and runs no backward pass.
        advance: called after each batch (a progress bar).

    Under ``torch.distributed`` each process gives its own batches, and the sums are merged; batch
    ``i`` of rank ``r`` draws its positions and labels as batch ``i * world_size + r``, so a round-
    robin split gives what one process would measure on all batches. What is raised in one process
    is raised in all.

    Padding that a keyword ``attention_mask`` of shape (batch, length) marks is not measured, in
    layers that run on every token.

    Returns the statistics by consumer index, and in words which loss was used.
    """
    config = config or CaptureConfig()
    rank, world = processes.rank_and_size()
    n_samples = processes.total("the number of examples", sum(len(batch) for batch in batches))
    by_key = {
        (c.weight, c.call): _Recorder(i, config, seed, n_samples) for i, c in consumers.items()
    }
    wanted_fisher = config.fisher_samples / world if loss is not None else 0.0
    settled: Loss | None = None
    how = "no loss"
    seen = 0
    with measuring(model):
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        for i, whole in enumerate(batches):
            number = i * world + rank
            batch = whole.to(device)
            backward = loss is not None and seen < wanted_fisher
            seen += len(batch)
            anchor = torch.zeros((), device=device, requires_grad=True)
            mask = token_mask(batch.kwargs)

            def after(
                call: Call, output: Tensor, number: int = number, backward: bool = backward,
                anchor: Tensor = anchor, mask: Tensor | None = mask,
            ) -> Tensor:  # fmt: skip
                recorder = by_key.get(call.key)
                if recorder is None:
                    return output
                if backward:
                    output = output + anchor.to(output.dtype)
                recorder.see(call, output, number, backward, mask)
                return output

            with blaming(i), torch.set_grad_enabled(backward), CallHooks(model, after=after):
                output = model(*batch.args, **batch.kwargs)
            if backward:
                assert loss is not None
                if settled is None:
                    settled, how = settle(loss, output, batch.target)
                generator = torch.Generator().manual_seed((seed * 7_919 + number) % 2**63)
                pass_back(settled, output, batch, generator)
            if advance:
                advance()
    for consumer in consumers.values():
        recorder = by_key[consumer.weight, consumer.call]
        _check_seen(consumer, recorder, loss is not None)
        if recorder.fisher is not None:  # before it is merged, so that the rank is known
            _check_finite(recorder.fisher.mean, consumer.name)
    processes.agree("the loss", [how])
    return {
        index: _finish(by_key[consumer.weight, consumer.call], consumer.name, loss is not None)
        for index, consumer in consumers.items()
    }, how


def _check_seen(consumer: Consumer, recorder: _Recorder, with_fisher: bool) -> None:
    rows = 0 if recorder.moments is None else recorder.moments.count
    gradients = 0 if recorder.fisher is None else recorder.fisher.count
    if consumer.routed and (rows == 0 or (with_fisher and gradients == 0)):
        raise CalibrationError(
            f"No token of the calibration batches reaches {consumer.name}, as can be with the "
            "experts of a mixture. Give more batches (to each process), or name it in protect=."
        )
    if rows == 0:
        raise CalibrationError(
            f"{consumer.name} was traced but never ran on the calibration batches. If the model "
            "takes another path in evaluation mode, trace it with such a batch."
        )
    if with_fisher and gradients == 0:
        raise CalibrationError(
            f"No gradient reached {consumer.name}: the loss does not depend on it. Use "
            "noise=0.1, which needs no gradient, or a loss that covers all outputs."
        )


def _check_finite(gradient: Float[Tensor, "..."], name: str) -> None:
    if not bool(torch.isfinite(gradient).all()):
        raise CalibrationError(
            f"The gradient at the output of {name} has NaN or infinite values. Run "
            "the model in float32 or bfloat16, or use noise=0.1, which needs no gradient."
        )


def _finish(recorder: _Recorder, name: str, with_fisher: bool) -> Statistics:
    moments, gradient, fisher = recorder.moments, recorder.fisher, None
    assert moments is not None
    moments.all_reduce(f"what {name} takes in")
    if with_fisher:
        assert gradient is not None
        gradient.all_reduce(f"the gradient at the output of {name}")
        fisher = dense(gradient.covariance()) + torch.outer(gradient.mean, gradient.mean)
        _check_finite(fisher, name)
    return Statistics(moments.count, moments.mean, moments.covariance(), fisher)


def chunks(sizes: Iterable[tuple[int, int]], memory: int) -> list[list[int]]:
    """Consumer indices in passes: each pass's ``(index, bytes)`` sum to at most ``memory``.

    A consumer that alone is larger gets a pass of its own.
    """
    passes: list[list[int]] = []
    room = -1
    for index, size in sizes:
        if size > room:
            passes.append([])
            room = memory
        passes[-1].append(index)
        room -= size
    return passes
