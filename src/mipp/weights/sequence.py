"""Layer after layer, from inputs to outputs: what a changed net really puts into each.

One pass of the original notes what every layer gave; one pass of the changed copy, of all examples
at once, stops at each layer with what that now takes in, and goes on with the weights it then has.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp import processes
from mipp.statistics import Batch, CaptureConfig, blaming, joinable, joined
from mipp.surgery import NormStatistics, follow_norm, once_for_all
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
from mipp.weights.layers import Layer
from mipp.weights.measure import in_blocks, picked


@dataclass(frozen=True, eq=False)
class Stop:
    """One layer, reached: ``x`` (n, g, d) that it takes in now, ``y`` (n, g, m) that it gave.

    ``call.weight`` and ``call.bias`` are the copy's, to be changed in place. For a layer that is
    called several times, or routed, ``x`` is what it took in before, over all calls.
    """

    layer: Layer
    call: Call
    x: Float[Tensor, "n g d"]
    y: Float[Tensor, "n g m"]


Visit = Callable[[Stop], None]


@dataclass(eq=False)
class _Noted:
    pick: list[Int[Tensor, " rows"]] = field(default_factory=list)
    x: list[Float[Tensor, "rows g d"]] = field(default_factory=list)
    y: list[Float[Tensor, "rows g m"]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


def in_order(
    changed: nn.Module,
    original: nn.Module,
    layers: Sequence[Layer],
    batches: Sequence[Batch],
    visit: Visit,
    *,
    config: CaptureConfig,
    norm: str = "mean",
    dense: bool = False,
    seed: int = 0,
) -> None:
    """Visits every layer of ``changed`` in the order in which it runs.

    ``config``: how many rows are looked at. ``norm``: how BatchNorm statistics of ``changed``
    follow, see `mipp.Refit`. ``dense``: ``x`` is what the original takes in. Padding does not
    count. In a `mipp.processes.together` block each rank draws rows as its share of all batches;
    merging what it sees of them is left to ``visit``.
    """
    if not layers:
        visit = _nothing
    noted = {layer.name: _Noted() for layer in layers}
    norms: list[NormStatistics] = []
    device = next((p.device for p in original.parameters()), torch.device("cpu"))
    moved = joinable(original, [batch.to(device) for batch in batches])
    rank, world = processes.rank_and_size()
    n_samples = processes.total("the number of examples", sum(len(batch) for batch in moved))
    # a changed net may send other positions to a routed layer than the original does
    kept_x = {l.name for l in layers if dense or l.routed or l.calls > 1}
    by_name = {layer.name: (number, layer) for number, layer in enumerate(layers)}
    with torch.no_grad(), measuring(original), measuring(changed, values=False):
        for i, batch in enumerate(moved):
            number = i * world + rank
            at, mask = itertools.count(), token_mask(batch.kwargs)

            def note(
                call: Call, output: Tensor, number: int = number, mask: Tensor | None = mask
            ) -> Tensor:
                if call.name in by_name:
                    place, layer = by_name[call.name]
                    pick = picked(layer, call, output, config, n_samples,
                                  (seed, number, place, call.call), mask)  # fmt: skip
                    _note(noted[call.name], layer, call, output, pick, call.name in kept_x)
                return output

            def observe(call: NormCall, at: Iterator[int] = at) -> None:
                place = next(at)
                if place == len(norms):
                    norms.append(NormStatistics())
                norms[place].add(call.input)

            with blaming(number), CallHooks(original, after=note, on_norm=observe, grouped=True):
                original(*batch.args, **batch.kwargs)

        at_norm = itertools.count()

        def after(call: Call, output: Tensor) -> Tensor:
            seen = noted.pop(call.name, None)
            if seen is None:
                return output
            layer = by_name[call.name][1]
            y = torch.cat(seen.y)
            if seen.x:
                x = torch.cat(seen.x)
            else:
                pick = torch.cat(seen.pick)
                if once_for_all(n_positions(call, output), seen.positions, layer.module):
                    pick, y = seen.pick[0], seen.y[0]
                x = in_blocks(layer, input_rows(call, output, pick))
            if len(y) == 0:  # an expert that no token came to
                return output
            visit(Stop(layer, call, x, y))
            return call.run()

        def on_norm(call: NormCall) -> None:
            follow_norm(call, norms[next(at_norm)], None, norm)

        whole = joined(moved)
        with CallHooks(changed, after=after, on_norm=on_norm, grouped=True):
            changed(*whole.args, **whole.kwargs)


def _note(
    noted: _Noted,
    layer: Layer,
    call: Call,
    output: Tensor,
    pick: Int[Tensor, " rows"],
    with_inputs: bool,
) -> None:
    x = None
    if with_inputs or layer.kind == "conv_transpose":
        x = in_blocks(layer, input_rows(call, output, pick))
    if layer.kind == "conv_transpose":
        assert x is not None
        # outputs overlap: what each input position adds to them
        y = torch.einsum("ngd,gmd->ngm", x, layer.blocks(call.weight).to(x.dtype))
    else:
        y = output_rows(call, output, pick).view(len(pick), layer.groups, layer.block[0])
    noted.y.append(y)
    if with_inputs:
        assert x is not None
        noted.x.append(x)
    noted.pick.append(pick + sum(noted.positions))
    noted.positions.append(n_positions(call, output))


def _nothing(_stop: Stop) -> None:
    """Leaves the layer as it is."""
