"""Least squares for the layers behind blocks that the model runs around.

Each layer is fitted to give, from what it gets now, what it gave in the whole model: the part of a
block that is a linear function of the stream that goes around it lives on in the layers that read
the stream.
"""

import math
from collections.abc import Callable, Sequence

from torch import nn

from mipp import processes
from mipp.errors import SurgeryError
from mipp.out_of_memory import enough_memory
from mipp.records import Consumer
from mipp.surgery.refit.fitting import LESS_MEMORY, LeastSquares, Refit
from mipp.surgery.refit.original import Draw, Original
from mipp.surgery.refit.reached import Piece, Reached, WalkedLayer
from mipp.surgery.refit.walk import walk


def refit_behind(
    around: nn.Module,
    original: nn.Module,
    layers: Sequence[Consumer],
    pieces: Sequence[Piece],
    config: Refit,
    seed: int = 0,
    memory: float = math.inf,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Fits layers and BatchNorm statistics, in place, to what they gave in the original.

    Args:
        around: the model that runs around the blocks, all of whose layers still run.
        original: the whole model.
        layers: those behind the first of the blocks, in the order of their calls.
        pieces: the examples in batches.
        config: how to fit; ``fits`` is ``"weights"`` or ``"bias"``.
        seed: of the rows that are drawn.
        memory: as in `walk`.
        advance: called after each layer.

    Raises:
        SurgeryError: the fitted weights are not finite.
    """
    fitted = [] if config.mode == "norm" else list(layers)
    closed = config.mode == "closed"
    walked = [_walked(original, consumer, index, closed) for index, consumer in enumerate(fitted)]
    n_samples = processes.total("the number of examples", sum(piece.size for piece in pieces))

    def visit(reached: Reached) -> None:
        consumer, width = fitted[reached.layer.index], reached.layer.features
        with enough_memory(
            "refitting", consumer.name, width, 8 * width**2, SurgeryError, LESS_MEMORY
        ):
            problem = LeastSquares(reached, consumer, config.ridge, config.toward)
            if config.fits == "bias":
                problem.fit_bias()
            else:
                problem.fit_weights(config.few_rows)
        advance()

    draw = Draw(config.rows_per_feature, config.min_rows, n_samples, seed)
    source = Original(original, walked, pieces, draw, squares=config.norm == "full")
    walk(
        around, walked, pieces, source, visit, n_samples=n_samples, norm=config.norm, memory=memory
    )


def _walked(model: nn.Module, consumer: Consumer, index: int, closed: bool) -> WalkedLayer:
    weight = model.get_parameter(consumer.weight)
    # kernel cells of a transposed convolution belong to its outputs
    transposed = consumer.kind == "conv_transpose"
    features = weight.shape[0] if transposed else weight.numel() // weight.shape[consumer.out_dim]
    return WalkedLayer(
        name=consumer.name,
        weight=consumer.weight,
        call=consumer.call,
        index=index,
        features=features,
        note_inputs=closed or consumer.routed,
    )
