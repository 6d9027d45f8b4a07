"""After selection: the function of Theorem 1, written down.

Where information is kept, a function exists that gives a consumer's old output from what is left of
its input. Here it is the least-squares one: the consumer's own weights are replaced by the linear
map from the units that are left to what the original consumer put out,

    W' = (Cov(Y, X_S) + ridge D W_S) inverse(Cov(X_S) + ridge D),      D = diag Var(X_S),

with the bias (or the running mean of the BatchNorm behind it) such that the mean is kept. No
gradient step, no labels.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp.checks import check_fields
from mipp.errors import InputError, SurgeryError
from mipp.out_of_memory import enough_memory
from mipp.records import KEPT, AxisKey, ChannelGraph, Consumer, IntArray
from mipp.surgery.fitting import LeastSquares
from mipp.surgery.keeps import scale_keeps
from mipp.surgery.norms import NormStatistics, follow
from mipp.tracing.calls import (
    Call,
    CallHooks,
    NormCall,
    counted,
    input_rows,
    n_positions,
    output_rows,
    token_mask,
    weight_matrix,
)
from mipp.tracing.guards import measuring

_CHOICES = {
    "mode": ("sequential", "closed", "norm"),
    "fits": ("weights", "scale", "bias"),
    "toward": ("old", "zero"),
    "norm": ("mean", "full", "keep"),
}
_LESS = (
    "Call apply(refit=False), or fit less: apply(refit='norm'), a smaller "
    "mipp.Refit(rows_per_feature=, min_rows=), or a plan with fewer samples=, as memory= is that "
    "of planning alone. A method that needs no refit is method='l2' with refit=False."
)
Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of one call of the model."""


@dataclass(frozen=True)
class Refit:
    """How the weights that stay take over what the removed ones did.

    ``mode``: ``sequential`` fits from inputs to outputs on what the pruned net really puts in,
    ``closed`` on what the original puts in, ``norm`` only corrects BatchNorm statistics.
    ``fits``: all ``weights`` of a layer, one factor for each channel that it reads (``scale``,
    biases stay), or its ``bias`` alone; the last two are special cases of the first.
    ``ridge``: pull towards the old weights (``toward="old"``) or towards zero, as a share of each
    feature's variance. ``norm``: BatchNorm statistics follow the ``mean``, mean and variance
    (``full``), or nothing (``keep``). ``rows_per_feature``, ``min_rows``: rows (examples x
    positions) used for a fit, per feature of the layer's input and at the least. ``few_rows``: rows
    for each feature below which all ``weights`` of a layer are fitted with a ridge, up to 1,000
    times as strong, that held-out rows choose, or not at all where no fit is better; 0 for never.
    """

    mode: str = "sequential"
    fits: str = "weights"
    ridge: float = 1e-3
    toward: str = "old"
    norm: str = "mean"
    rows_per_feature: float = 24.0
    min_rows: int = 8192
    few_rows: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"Refit has {name}={getattr(self, name)!r}; expected one of "
                    f"{', '.join(map(repr, choices))}."
                )
        if not 0 < self.ridge < math.inf:
            raise InputError(f"Refit has ridge={self.ridge}; expected a number above 0.")
        if not 0 <= self.few_rows < math.inf:
            raise InputError(f"Refit has few_rows={self.few_rows}; expected a number from 0 up.")
        if not 0 < self.rows_per_feature < math.inf or self.min_rows < 1:
            raise InputError(
                f"Refit has rows_per_feature={self.rows_per_feature} and min_rows={self.min_rows}; "
                "expected a number above 0, such as 24, and at least one row."
            )


@dataclass(eq=False)
class _Target:
    """What the original consumer put out (and, for ``closed``, took in) at the sampled rows.

    What routed layers took in is noted, too: the pruned model may send them other positions.
    """

    number: int
    pick: list[Int[Tensor, " rows"]] = field(default_factory=list)
    example: list[Int[Tensor, " rows"]] = field(default_factory=list)
    y: list[Float[Tensor, "rows m"]] = field(default_factory=list)
    x: list[Float[Tensor, "rows d"]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


class _Fit:
    """One refit of one pruned model against its original.

    ``norm_channels``: ``id`` of a running mean of the pruned model -> its channels in the original.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        kept: Mapping[AxisKey, IntArray],
        norm_channels: Mapping[int, Int[Tensor, " kept"]],
        n_samples: int,
        config: Refit,
        seed: int,
    ) -> None:
        self.config, self.kept, self.seed, self.n_samples = config, kept, seed, n_samples
        self.graph = graph
        calls = [consumer.weight for consumer in graph.consumers]
        once = [c for c in graph.consumers if calls.count(c.weight) == 1 and c.alone]
        self.consumers = {(c.weight, c.call): c for c in once} if config.mode != "norm" else {}
        self.targets = {key: _Target(number) for number, key in enumerate(self.consumers)}
        self.norms: list[NormStatistics] = []
        self.norm_channels = norm_channels
        self.followed: set[int] = set()

    def axis(self, key: AxisKey, size: int, device: torch.device) -> Int[Tensor, " kept"]:
        """The kept indices along one dimension of a weight of the original model."""
        kept = self.kept.get(key)
        if kept is None:
            return torch.arange(size, device=device)
        return torch.as_tensor(kept, device=device)

    def observe(self, original: nn.Module, batches: Sequence[Inputs]) -> None:
        """Runs the original model and notes targets and BatchNorm inputs."""
        seen = 0
        for number, (args, kwargs) in enumerate(batches):
            norm_at, mask = itertools.count(), token_mask(kwargs)

            def after(
                call: Call, output: Tensor, number: int = number,
                mask: Tensor | None = mask, seen: int = seen,
            ) -> Tensor:  # fmt: skip
                consumer = self.consumers.get(call.key)
                if consumer is not None:
                    self._note(consumer, call, output, number, mask, seen)
                return output

            def on_norm(call: NormCall, norm_at: Iterator[int] = norm_at) -> None:
                at = next(norm_at)
                if at == len(self.norms):
                    self.norms.append(NormStatistics())
                self.norms[at].add(call.input)

            with CallHooks(original, after=after, on_norm=on_norm):
                original(*args, **dict(kwargs))
            seen += _batch_size(args, kwargs)

    def _note(
        self,
        consumer: Consumer,
        call: Call,
        output: Tensor,
        number: int,
        mask: Tensor | None,
        seen: int,
    ) -> None:
        """Notes rows of one call. ``seen``: examples of the batches before."""
        target = self.targets[call.key]
        positions = n_positions(call, output)
        real = counted(call, output, mask)
        total = positions if real is None else len(real)
        matrix = weight_matrix(call.kind, call.weight)
        ins = self.axis(consumer.in_axis, call.weight.shape[consumer.in_dim], output.device)
        outs = self.axis(consumer.out_axis, call.weight.shape[consumer.out_dim], output.device)
        features = len(ins) * matrix.shape[1] // call.weight.shape[consumer.in_dim]
        batch = call.input.shape[0] if call.input.dim() > 1 else 1
        wanted = max(self.config.rows_per_feature * features, self.config.min_rows)
        n_rows = max(1, round(min(1.0, wanted * batch / (self.n_samples * max(total, 1))) * total))
        generator = torch.Generator().manual_seed(
            (self.seed * 1_000_003 + number * 10_007 + target.number) % 2**63
        )
        pick = (
            torch.randperm(total, generator=generator)[:n_rows].sort().values
            if n_rows < total
            else torch.arange(total)
        )
        pick = (pick if real is None else real[pick]).to(output.device)
        if call.kind == "conv_transpose":
            # outputs overlap: fit what each input position adds to them
            x = input_rows(call, output, pick)
            y = x @ matrix.T.to(x.dtype)
            per_output = matrix.shape[0] // call.weight.shape[consumer.out_dim]
            columns = (outs.unsqueeze(1) * per_output).add(
                torch.arange(per_output, device=outs.device)
            )
            y = y[:, columns.flatten()]
        else:
            y = output_rows(call, output, pick)[:, outs]
            y = self._scaled(consumer, y, outs)
        target.y.append(y)
        if self.config.mode == "closed" or consumer.routed:
            per_input = matrix.shape[1] // call.weight.shape[consumer.in_dim]
            columns = (ins.unsqueeze(1) * per_input).add(torch.arange(per_input, device=ins.device))
            target.x.append(input_rows(call, output, pick)[:, columns.flatten()])
        # numbers of examples, rising over the batches
        target.example.append(pick * batch // max(positions, 1) + seen)
        target.pick.append(pick + sum(target.positions))
        target.positions.append(positions)

    def _scaled(
        self, consumer: Consumer, y: Float[Tensor, "rows m"], outs: Int[Tensor, " m"]
    ) -> Float[Tensor, "rows m"]:
        """Outputs as the pruned layer has to give them, whose rows may have been scaled."""
        for scale in scale_keeps(self.graph, self.kept):
            if (scale.tensor, scale.dim) == (consumer.weight, consumer.out_dim):
                mine = torch.isin(outs, torch.tensor(scale.indices, device=outs.device))
                y = torch.where(mine, y * scale.factor, y)
        return y

    def _solve(
        self,
        call: Call,
        consumer: Consumer,
        x: Float[Tensor, "rows d"],
        y: Float[Tensor, "rows m"],
        example: Int[Tensor, " rows"],
    ) -> None:
        """Writes the fitted weight and bias into the parameters of the call."""
        problem = LeastSquares(call, consumer, x, y, self.config.ridge, self.config.toward)
        if self.config.fits == "bias":
            problem.fit_bias()
        elif self.config.fits == "scale":
            problem.fit_scale(self._channels(consumer, call.weight))
        else:
            problem.fit_weights(self.config.few_rows, example)

    def _channels(self, consumer: Consumer, weight: Tensor) -> Int[Tensor, " inputs"]:
        """Which channel each input of a pruned weight is a part of, counted from 0."""
        size = weight.shape[consumer.in_dim]
        axis = self.graph.axes.get(consumer.in_axis)
        if axis is None:
            return torch.arange(size, device=weight.device)
        kept = self.kept.get(consumer.in_axis, np.arange(axis.size))
        # inputs that are never removed are channels of their own
        alone = np.where(axis.group == KEPT, np.arange(axis.size), KEPT)
        owner = np.stack([axis.group, axis.unit, alone])[:, kept]
        channels = np.unique(owner, axis=1, return_inverse=True)[1].reshape(-1)
        return torch.as_tensor(channels, device=weight.device)

    def correct(
        self,
        small: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        hold: Callable[[], None],
    ) -> None:
        """Runs the pruned model once on all examples and fits each layer as it is reached."""
        norm_at = itertools.count()

        def after(call: Call, output: Tensor) -> Tensor:
            consumer = self.consumers.get(call.key)
            if consumer is None:
                return output
            target = self.targets.pop(call.key)
            y, example = torch.cat(target.y), torch.cat(target.example)
            if len(y) == 0:  # an expert that no token came to
                return output
            if target.x:
                x = torch.cat(target.x)
            else:
                pick = torch.cat(target.pick)
                if once_for_all(n_positions(call, output), target.positions, consumer.name):
                    pick, y, example = target.pick[0], target.y[0], target.example[0]
                x = input_rows(call, output, pick)
            with enough_memory(
                "refitting", consumer.name, x.shape[1], 8 * x.shape[1] ** 2, SurgeryError, _LESS
            ):
                self._solve(call, consumer, x, y, example)
            hold()
            return call.run()

        def on_norm(call: NormCall) -> None:
            self.followed |= {id(call.running_mean), id(call.running_var)}
            channels = self.norm_channels.get(id(call.running_mean))
            follow(call, self.norms[next(norm_at)], channels, self.config.norm)

        with CallHooks(small, after=after, on_norm=on_norm):
            small(*args, **dict(kwargs))


def refit(
    small: nn.Module,
    original: nn.Module,
    graph: ChannelGraph,
    kept: Mapping[AxisKey, IntArray],
    batches: Sequence[Inputs],
    joined: Inputs,
    config: Refit | None = None,
    seed: int = 0,
    hold: Callable[[], None] = lambda: None,
) -> None:
    """Fits the weights and BatchNorm statistics of ``small``, in place, to the original's outputs.

    ``batches`` and ``joined`` are the same examples, in pieces for the original and in one piece
    for the pruned model, which is fitted layer by layer within that one forward pass. A weight that
    the model uses several times is left as it is. If nothing was removed, nothing is changed.
    ``hold`` is called after each fit, to put back what must not be fitted. Padding that a keyword
    ``attention_mask`` marks is not fitted to.

    Raises:
        SurgeryError: when the fitted weights are not finite.
    """
    config = config or Refit()
    if not kept:
        return
    n_samples = sum(_batch_size(args, kwargs) for args, kwargs in batches)
    norm_channels = {
        id(buffer): torch.as_tensor(kept[key], device=buffer.device)
        for name, buffer in small.named_buffers()
        if (key := AxisKey(graph.aliases.get(name, name), 0)) in kept
    }
    fit = _Fit(graph, kept, norm_channels, n_samples, config, seed)
    with torch.no_grad(), measuring(original), measuring(small, values=False):
        largest = max(graph.consumers, key=lambda c: _features(graph, c))
        width = _features(graph, largest)
        with enough_memory(
            "running all calibration examples for the refit; the largest layer is", largest.name,
            width, 8 * width**2, SurgeryError, _LESS,
        ):  # fmt: skip
            fit.observe(original, batches)
            before = [(buffer, buffer.clone()) for buffer in small.buffers()]
            fit.correct(small, *joined, hold)
            for buffer, value in before:
                if id(buffer) not in fit.followed:
                    buffer.copy_(value)


def _features(graph: ChannelGraph, consumer: Consumer) -> int:
    shape = graph.shapes[consumer.weight]
    return int(np.prod(shape)) // shape[consumer.out_dim]


def once_for_all(now: int, noted: Sequence[int], layer: str) -> bool:
    """Whether a layer runs once for all examples, on something that has no batch dimension.

    ``now``: its positions when all examples go through in one batch. ``noted``: those for each
    batch before.

    Raises:
        SurgeryError: it is neither that nor a layer whose positions are those of all batches.
    """
    if now == sum(noted):
        return False
    if set(noted) == {now}:
        return True
    raise SurgeryError(
        f"{layer} gets {now} positions in the pruned model and {sum(noted)} in the original, so "
        "that it cannot be fitted. Make the plan's batches larger, call apply(refit=False), or "
        "name the layer in protect=."
    )


def _batch_size(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim() > 0]
    return tensors[0].shape[0] if tensors else 1
