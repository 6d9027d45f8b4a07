"""One pass over the batches: second moments of what each weight takes in, and how finely it counts.

All calls of a weight count together, grouped convolutions block by block, and of the Fisher
information only the diagonal, which is all that single rows can use.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from mipp.statistics import Batch, CaptureConfig, Loss, Site, Statistics, collect
from mipp.weights.layers import Layer

Seen = Statistics
"""What was measured at one weight."""


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
        model: as for `mipp.statistics.collect`, like all other arguments.
        layers: where to measure.

    Returns:
        The statistics by the name of the weight; and in words which loss was used, empty without.
    """
    sites = [Site(l.module, l.name, None, n, l.routed) for n, l in enumerate(layers)]
    found, how = collect(
        model, sites, batches, loss=loss, config=config, seed=seed, advance=advance
    )
    named = {layer.name: one for layer, one in zip(layers, found, strict=True)}
    return named, how if loss is not None else ""
