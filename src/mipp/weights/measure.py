"""Inputs of each weight: their moments in one pass, or their rows layer after layer.

All calls of a weight count together, grouped convolutions block by block, and of the Fisher
information only the diagonal, which is all that single rows can use.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mipp import processes
from mipp.pieces import pieces_of
from mipp.statistics import (
    OF_ROWS,
    Batch,
    CaptureConfig,
    Loss,
    Site,
    Statistics,
    blaming,
    collect,
)
from mipp.surgery import Draw, Original, Reached, WalkedLayer, walk
from mipp.tracing.calls import Call
from mipp.weights.layers import Layer


def n_bytes(layer: Layer, config: CaptureConfig) -> int:
    """Bytes that the measurement of a layer takes."""
    _, d = layer.block
    return layer.groups * d * d * torch.empty((), dtype=config.dtype).element_size()


def measure(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Sequence[Batch],
    *,
    loss: Loss | str | None,
    config: CaptureConfig,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Statistics], str]:
    """Measures all layers; see `mipp.statistics.collect`.

    Args:
        model: the model, which is left as it was.
        layers: where to measure.
        batches: of this process.
        loss: how finely outputs matter, None for no Fisher information.
        config: how much is measured.
        seed: of the positions and labels that are drawn.
        advance: called after each batch.

    Returns:
        The statistics by the name of the weight; and in words which loss was used, empty without.
    """
    sites = [Site(l.module, l.name, None, n, l.routed) for n, l in enumerate(layers)]
    found, how = collect(
        model, sites, batches, loss=loss, config=config, seed=seed, advance=advance
    )
    named = {layer.name: one for layer, one in zip(layers, found, strict=True)}
    return named, how if loss is not None else ""


@dataclass(frozen=True, eq=False)
class Stop:
    """One layer of a changed net, reached; see `mipp.surgery.walk`.

    Attributes:
        layer: which one.
        call: whose weight and bias are the changed net's, to be set in place.
        x: what the layer takes in now. For a layer that is called several times, or routed, what it
            took in before, over all calls.
        y: what it gave.
    """

    layer: Layer
    call: Call
    x: Float[Tensor, "n g d"]
    y: Float[Tensor, "n g m"]


def in_order(
    changed: nn.Module,
    original: nn.Module,
    layers: Sequence[Layer],
    batches: Sequence[Batch],
    visit: Callable[[Stop], None],
    *,
    config: CaptureConfig,
    norm: str = "mean",
    dense: bool = False,
    seed: int = 0,
    memory: float = math.inf,
    everywhere: bool = False,
) -> None:
    """Visits every layer of ``changed`` in the order in which it runs.

    Padding does not count. In a `mipp.processes.together` block each rank draws rows as its share
    of all batches; merging what it sees of them is left to ``visit``, unless it sees all of them.

    Args:
        changed: the net whose weights ``visit`` may set, in place.
        original: the net that says what layers should give.
        layers: where to stop.
        batches: of this process.
        visit: called at each layer before the net goes on.
        config: how many rows are looked at.
        norm: how BatchNorm statistics of ``changed`` follow, see `mipp.Refit`.
        dense: whether to stop with what the original takes in.
        seed: of the rows that are drawn.
        memory: as in `mipp.surgery.walk`.
        everywhere: whether each process sees the rows of all.
    """
    pieces = pieces_of(original, batches)
    n_samples = processes.total("the number of examples", sum(p.size for p in pieces))
    walked = []
    for number, layer in enumerate(layers):
        several = layer.calls > 1
        note_inputs = dense or layer.routed or several
        walked.append(
            WalkedLayer(
                layer.module, layer.name, None, number, layer.block[1], note_inputs, several=several
            )
        )

    def stop(reached: Reached) -> None:
        rows = reached.whole(everywhere=everywhere)
        visit(Stop(layers[reached.layer.index], reached.call, rows.x, rows.y))

    draw = Draw(config.rows_per_feature or OF_ROWS, config.min_rows, n_samples, seed)
    source = Original(original, walked, pieces, draw, squares=norm == "full", guard=blaming)
    walk(changed, walked, pieces, source, stop, n_samples=n_samples, norm=norm, memory=memory)
