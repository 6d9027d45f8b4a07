"""After selection: the function of Theorem 1, written down.

Where information is kept, a function exists that gives a consumer's old output from what is left of
its input. Here it is the least-squares one: the consumer's own weights are replaced by the linear
map from the units that are left to the outputs of the original consumer,

    W' = (Cov(Y, X_S) + ridge D W_S) inverse(Cov(X_S) + ridge D),      D = diag Var(X_S),

with the bias (or the running mean of the BatchNorm behind it) such that the mean is kept. No
gradient step, no labels.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mipp import processes
from mipp.errors import SurgeryError
from mipp.out_of_memory import enough_memory
from mipp.records import KEPT, AxisKey, ChannelGraph, Consumer, IntArray
from mipp.surgery.keeps import scale_keeps
from mipp.surgery.refit.fitting import LESS_MEMORY, LeastSquares, Refit
from mipp.surgery.refit.original import Draw, Original
from mipp.surgery.refit.reached import Piece, Reached, WalkedLayer
from mipp.surgery.refit.walk import walk
from mipp.tracing.notes import Key, Notes

NOTED_SHARE = 0.6


def refit(
    small: nn.Module,
    original: nn.Module,
    graph: ChannelGraph,
    kept: Mapping[AxisKey, IntArray],
    pieces: Sequence[Piece],
    config: Refit | None = None,
    notes: Notes | None = None,
    seed: int = 0,
    hold: Callable[[], None] = lambda: None,
    memory: float = math.inf,
) -> None:
    """Fits the weights and BatchNorm statistics of ``small``, in place, to the original's outputs.

    A weight that the model uses several times is left as it is. If nothing was removed, nothing is
    changed. Padding that a keyword ``attention_mask`` marks is not fitted to.

    Args:
        small: the pruned model, which is fitted layer by layer within one forward pass.
        original: the model before pruning.
        graph: of the original.
        kept: indices that stay, by axis.
        pieces: the examples in batches.
        config: how to fit.
        notes: what the original gave at consumers that are called once and not routed, if it was
            noted when it was measured; else the original is run.
        seed: of the rows that are drawn.
        hold: called after each fit, to put back what must not be fitted.
        memory: bytes allowed; outputs of the original that would take more than a quarter of it
            are not kept, and both nets run in step.

    Raises:
        SurgeryError: the fitted weights are not finite.
    """
    config = config or Refit()
    if not kept:
        return
    n_samples = processes.total("the number of examples", sum(piece.size for piece in pieces))
    norm_channels = {
        id(buffer): torch.as_tensor(kept[key], device=buffer.device)
        for name, buffer in small.named_buffers()
        if (key := AxisKey(graph.aliases.get(name, name), 0)) in kept
    }
    fitted = _fitted(graph, config)
    noted = [c.routed or config.mode == "closed" for c in fitted]
    layers = [
        _layer(graph, kept, consumer, index, note_inputs=note)
        for index, (consumer, note) in enumerate(zip(fitted, noted, strict=True))
    ]

    def visit(reached: Reached) -> None:
        consumer = fitted[reached.layer.index]
        width = reached.layer.features
        with enough_memory(
            "refitting", consumer.name, width, 8 * width**2, SurgeryError, LESS_MEMORY
        ):
            problem = LeastSquares(reached, consumer, config.ridge, config.toward)
            if config.fits == "bias":
                problem.fit_bias()
            elif config.fits == "scale":
                problem.fit_scale(_channels(graph, kept, consumer, reached.call.weight))
            else:
                problem.fit_weights(config.few_rows)
        hold()

    largest = max(graph.consumers, key=lambda c: n_features(graph, c))
    width = n_features(graph, largest)
    with enough_memory(
        "running all calibration examples for the refit; the largest layer is", largest.name,
        width, 8 * width**2, SurgeryError, LESS_MEMORY,
    ):  # fmt: skip
        squares = config.norm == "full"
        source: Original | Notes | None = notes
        if notes is None or any(noted) or (squares and not notes.squares):
            draw = Draw(config.rows_per_feature, config.min_rows, n_samples, seed)
            source = Original(original, layers, pieces, draw, squares=squares)
        assert source is not None
        readers = {c.weight for c in graph.consumers}
        readers.update(scale.tensor for scale in scale_keeps(graph, kept))
        walk(
            small, layers, pieces, source, visit, n_samples=n_samples, norm=config.norm,
            norm_channels=norm_channels, readers=readers, memory=memory,
        )  # fmt: skip


def rows_noted(graph: ChannelGraph, config: Refit) -> dict[Key, float] | None:
    """Layer -> rows at which its outputs are to be noted for a refit, while it is measured.

    Per feature a little more than half of those that a refit of the whole layer would use, since
    units go. None where a refit needs inputs, too.
    """
    fitted = _fitted(graph, config)
    if config.mode == "closed" or any(consumer.routed for consumer in fitted):
        return None
    each = NOTED_SHARE * config.rows_per_feature
    return {(c.weight, c.call): max(each * n_features(graph, c), config.min_rows) for c in fitted}


def _fitted(graph: ChannelGraph, config: Refit) -> list[Consumer]:
    """Consumers that are fitted: those that alone use their weight, once."""
    calls = [consumer.weight for consumer in graph.consumers]
    once = [c for c in graph.consumers if calls.count(c.weight) == 1 and c.alone]
    return once if config.mode != "norm" else []


def _layer(
    graph: ChannelGraph,
    kept: Mapping[AxisKey, IntArray],
    consumer: Consumer,
    index: int,
    *,
    note_inputs: bool,
) -> WalkedLayer:
    """A consumer as the walk sees it: which of its inputs and outputs are left."""
    shape = graph.shapes[consumer.weight]
    cells = int(np.prod(shape)) // (shape[consumer.in_dim] * shape[consumer.out_dim])
    # kernel cells of a transposed convolution belong to its outputs, which overlap
    transposed = consumer.kind == "conv_transpose"
    per_input, per_output = (1, cells) if transposed else (cells, 1)
    ins, outs = kept.get(consumer.in_axis), kept.get(consumer.out_axis)
    n_inputs = shape[consumer.in_dim] if ins is None else len(ins)
    return WalkedLayer(
        name=consumer.name,
        weight=consumer.weight,
        call=consumer.call,
        index=index,
        features=n_inputs * per_input,
        note_inputs=note_inputs,
        inputs=None if ins is None else _columns(ins, per_input),
        outputs=None if outs is None else _columns(outs, per_output),
        factors=None if transposed else _factors(graph, kept, consumer),
    )


def _columns(units: IntArray, each: int) -> Int[Tensor, " columns"]:
    """Columns of units that have so many each."""
    return torch.as_tensor(np.add.outer(units * each, np.arange(each)).ravel())


def _factors(
    graph: ChannelGraph, kept: Mapping[AxisKey, IntArray], consumer: Consumer
) -> Float[Tensor, " m"] | None:
    """Factors of the outputs of the pruned layer, where its rows were scaled."""
    size = graph.shapes[consumer.weight][consumer.out_dim]
    outs = kept.get(consumer.out_axis, np.arange(size))
    factors = np.ones(len(outs))
    for scale in scale_keeps(graph, kept):
        if (scale.tensor, scale.dim) == (consumer.weight, consumer.out_dim):
            factors[np.isin(outs, scale.indices)] *= scale.factor
    return None if (factors == 1).all() else torch.from_numpy(factors)


def _channels(
    graph: ChannelGraph, kept: Mapping[AxisKey, IntArray], consumer: Consumer, weight: Tensor
) -> Int[Tensor, " inputs"]:
    """Which channel each input of a pruned weight is a part of, counted from 0."""
    axis = graph.axes.get(consumer.in_axis)
    if axis is None:
        return torch.arange(weight.shape[consumer.in_dim], device=weight.device)
    chosen = kept.get(consumer.in_axis, np.arange(axis.size))
    # inputs that are never removed are channels of their own
    alone = np.where(axis.group == KEPT, np.arange(axis.size), KEPT)
    owner = np.stack([axis.group, axis.unit, alone])[:, chosen]
    channels = np.unique(owner, axis=1, return_inverse=True)[1].reshape(-1)
    return torch.as_tensor(channels, device=weight.device)


def n_features(graph: ChannelGraph, consumer: Consumer) -> int:
    """Features of a row of the consumer's input."""
    shape = graph.shapes[consumer.weight]
    return int(np.prod(shape)) // shape[consumer.out_dim]
