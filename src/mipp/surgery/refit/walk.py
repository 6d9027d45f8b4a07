"""Layer after layer, from inputs to outputs: what a changed net really puts into each.

One pass of the original notes what every layer gave; one pass of the changed copy, of all examples
at once, stops at each layer with what that now takes in, and goes on with the weights it then has.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp.errors import SurgeryError
from mipp.surgery.refit.norms import NormStatistics, follow
from mipp.tracing.calls import (
    Call,
    CallHooks,
    NormCall,
    input_rows,
    n_positions,
    output_rows,
    token_mask,
)
from mipp.tracing.guards import measuring
from mipp.tracing.sampling import consumer_seed, n_examples, sampled_positions, weight_seed

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of one call of the model."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A batch that the original is run on.

    Attributes:
        inputs: what the model is called with.
        number: of the batch, which seeds the draw of its positions.
        size: how many examples it has.
    """

    inputs: Inputs
    number: int
    size: int


@dataclass(frozen=True, eq=False)
class WalkedLayer:
    """A layer to stop at.

    Attributes:
        name: of the layer, for errors.
        weight: name of its parameter.
        call: number of the call, for a consumer of units; None for all calls together.
        index: seeds the draw of positions.
        features: of a row of the changed layer's input, in each block.
        note_inputs: whether to stop with what the original took in. A layer that is called several
            times, or routed, needs this: the changed net may send it other positions.
        inputs: features of the original's rows that are left, None for all.
        outputs: outputs of the original that are left, None for all.
        factors: what each output that is left is multiplied with, None for 1.
    """

    name: str
    weight: str
    call: int | None
    index: int
    features: int
    note_inputs: bool
    inputs: Int[Tensor, " d"] | None = None
    outputs: Int[Tensor, " m"] | None = None
    factors: Float[Tensor, " m"] | None = None


@dataclass(frozen=True, eq=False)
class Reached:
    """One layer of the changed net, reached.

    Attributes:
        layer: which one.
        call: whose ``weight`` and ``bias`` are the changed net's, to be set in place.
        x: what the layer takes in now, or what it took in before (see `WalkedLayer.note_inputs`),
            in blocks.
        y: what the original gave at these rows; of a transposed convolution, whose outputs overlap,
            what each input position adds to them.
        example: number of the example that each row is from.
    """

    layer: WalkedLayer
    call: Call
    x: Float[Tensor, "n g d"]
    y: Float[Tensor, "n g m"]
    example: Int[Tensor, " n"]


@dataclass(eq=False)
class _Noted:
    """Inputs and outputs of one layer of the original, in lists with an entry for each call."""

    layer: WalkedLayer
    pick: list[Int[Tensor, " rows"]] = field(default_factory=list)
    example: list[Int[Tensor, " rows"]] = field(default_factory=list)
    x: list[Float[Tensor, "rows g d"]] = field(default_factory=list)
    y: list[Float[Tensor, "rows g m"]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def add(self, call: Call, output: Tensor, pick: Int[Tensor, " rows"], seen: int) -> None:
        """Records rows of one call; ``seen`` is the number of examples of earlier batches."""
        layer, transposed = self.layer, call.kind == "conv_transpose"
        if layer.note_inputs or transposed:
            x = input_rows(call, output, pick)
            if layer.note_inputs:
                left = x if layer.inputs is None else x[:, layer.inputs]
                self.x.append(_in_blocks(left, call.groups))
        if transposed:
            blocks = _in_blocks(x, call.groups).movedim(1, 0)
            matrix = call.weight.reshape(call.groups, blocks.shape[2], -1).to(x.dtype)
            y = (blocks @ matrix).movedim(0, 1).flatten(1)
        else:
            y = output_rows(call, output, pick)
        if layer.outputs is not None:
            y = y[:, layer.outputs]
        if layer.factors is not None:
            y = y * layer.factors.to(y)
        self.y.append(_in_blocks(y, call.groups))
        positions = n_positions(call, output)
        self.example.append(pick * n_examples(call) // max(positions, 1) + seen)
        self.pick.append(pick + sum(self.positions))
        self.positions.append(positions)

    def reached(self, call: Call, output: Tensor) -> Reached | None:
        """The layer as the changed net reaches it; None where it got no row."""
        y, example = torch.cat(self.y), torch.cat(self.example)
        if len(y) == 0:  # an expert that no token came to
            return None
        if self.x:
            return Reached(self.layer, call, torch.cat(self.x), y, example)
        pick = torch.cat(self.pick)
        if _once_for_all(n_positions(call, output), self.positions, self.layer.name):
            pick, y, example = self.pick[0], self.y[0], self.example[0]
        x = _in_blocks(input_rows(call, output, pick), call.groups)
        return Reached(self.layer, call, x, y, example)


def walk(
    changed: nn.Module,
    original: nn.Module,
    layers: Sequence[WalkedLayer],
    pieces: Sequence[Piece],
    joined: Inputs,
    visit: Callable[[Reached], None],
    *,
    rows_per_feature: float,
    min_rows: int,
    n_samples: int,
    norm: str,
    norm_channels: Mapping[int, Int[Tensor, " kept"]] | None = None,
    seed: int = 0,
    guard: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> None:
    """Visits every layer of ``changed`` in the order in which it runs.

    Padding that a keyword ``attention_mask`` marks does not count. Buffers of ``changed`` other
    than running statistics are as before after it.

    Args:
        changed: the net whose weights ``visit`` may set, in place.
        original: the net that says what layers should give.
        layers: where to stop.
        pieces: the examples in batches, for the original.
        joined: the same examples in one batch, for the changed net.
        visit: called at each layer before the net goes on.
        rows_per_feature: rows (examples x positions) at each layer, per feature of its input.
        min_rows: rows at each layer at least.
        n_samples: examples that the rows are drawn from; more than those of the pieces where other
            processes have their share.
        norm: how BatchNorm statistics of ``changed`` follow, see `mipp.Refit`.
        norm_channels: ``id`` of a running mean of ``changed`` -> its channels in the original, of
            norms that lost some.
        seed: of the rows that are drawn.
        guard: a context for the original's run on each batch, by its number.

    Raises:
        SurgeryError: a layer gets other positions in the changed net than in the original.
    """
    noted = {(layer.weight, layer.call): _Noted(layer) for layer in layers}
    norms: list[NormStatistics] = []

    def place_of(call: Call) -> tuple[str, int | None]:
        return call.key if call.key in noted else (call.name, None)

    with torch.no_grad(), measuring(original), measuring(changed, values=False):
        seen = 0
        for piece in pieces:
            args, kwargs = piece.inputs
            norm_at, mask = itertools.count(), token_mask(kwargs)

            def note(
                call: Call, output: Tensor, number: int = piece.number,
                mask: Tensor | None = mask, seen: int = seen,
            ) -> Tensor:  # fmt: skip
                at = noted.get(place_of(call))
                if at is not None:
                    layer = at.layer
                    draw = (
                        weight_seed(seed, number, layer.index, call.call)
                        if layer.call is None
                        else consumer_seed(seed, number, layer.index)
                    )
                    wanted = max(rows_per_feature * layer.features, min_rows)
                    pick = sampled_positions(call, output, mask, wanted, n_samples, draw)
                    at.add(call, output, pick.sort().values.to(output.device), seen)
                return output

            def observe(call: NormCall, norm_at: Iterator[int] = norm_at) -> None:
                at = next(norm_at)
                if at == len(norms):
                    norms.append(NormStatistics())
                norms[at].add(call.input)

            recorded = CallHooks(original, after=note, on_norm=observe, grouped=True)
            with guard(piece.number), recorded:
                original(*args, **dict(kwargs))
            seen += piece.size

        before = [(buffer, buffer.clone()) for buffer in changed.buffers()]
        followed: set[int] = set()
        norm_at = itertools.count()

        def after(call: Call, output: Tensor) -> Tensor:
            at = noted.pop(place_of(call), None)
            reached = None if at is None else at.reached(call, output)
            if reached is None:
                return output
            visit(reached)
            return call.run()

        def on_norm(call: NormCall) -> None:
            followed.update((id(call.running_mean), id(call.running_var)))
            channels = (norm_channels or {}).get(id(call.running_mean))
            follow(call, norms[next(norm_at)], channels, norm)

        args, kwargs = joined
        with CallHooks(changed, after=after, on_norm=on_norm, grouped=True):
            changed(*args, **dict(kwargs))
        for buffer, value in before:
            if id(buffer) not in followed:
                buffer.copy_(value)


def _in_blocks(rows: Float[Tensor, "n f"], blocks: int) -> Float[Tensor, "n g d"]:
    return rows.view(len(rows), blocks, rows.shape[1] // blocks)


def _once_for_all(now: int, noted: Sequence[int], layer: str) -> bool:
    """Whether a layer runs once for all examples, on something that has no batch dimension.

    Args:
        now: its positions when all examples go through in one batch.
        noted: those for each batch before.
        layer: its name, for errors.

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
