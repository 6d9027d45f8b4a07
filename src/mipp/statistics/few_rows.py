"""Warnings where the examples do not say enough: too few of them, or no information at all."""

import contextlib
import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mipp import processes
from mipp.errors import CalibrationWarning
from mipp.records import ChannelGraph, Consumer, Curve
from mipp.statistics.batches import Batch


@dataclass(frozen=True)
class Sampled:
    """One layer: ``rows`` (positions an example) of ``features`` that it takes in."""

    name: str
    rows: float
    features: int


def of_consumers(graph: ChannelGraph) -> list[Sampled]:
    """The layers that read a group."""
    return [
        Sampled(consumer.name, float(consumer.uses), n_features(graph, consumer))
        for consumer in graph.consumers
    ]


def n_features(graph: ChannelGraph, consumer: Consumer) -> int:
    """Features that one row of a consumer has: inputs times kernel cells.

    Of a transposed convolution the inputs alone; its kernel cells belong to the outputs.
    """
    shape = graph.shapes[consumer.weight]
    if consumer.kind == "conv_transpose":
        return shape[consumer.in_dim]
    return int(np.prod(shape)) // shape[consumer.out_dim]


def few_rows(layers: Iterable[Sampled], data: Sequence[Batch]) -> dict[str, Any]:
    """Layer -> its rows and features where there are fewer of those, for the options of a plan.

    Warns (`mipp.errors.CalibrationWarning`) if there are any.
    """
    examples = processes.total("the number of examples", sum(len(batch) for batch in data))
    every = list(layers)
    short = [layer for layer in every if examples * layer.rows < layer.features]
    if not short or not examples:
        return {}
    worst = min(short, key=lambda layer: layer.rows / layer.features)
    enough = math.ceil(worst.features / max(worst.rows, 1e-9))
    warnings.warn(
        f"{examples} examples give {len(short)} of {len(every)} layers fewer rows than features: "
        f"{worst.name} has {examples * worst.rows:.0f} rows for {worst.features} features. What is "
        "measured, and what a refit learns, then follows the accidents of these examples. Give at "
        f"least {enough} examples, better {4 * enough}.",
        CalibrationWarning,
        stacklevel=_users_level(),
    )
    return {
        "few_rows": {layer.name: [round(examples * layer.rows), layer.features] for layer in short}
    }


def warn_without_information(curves: Iterable[Curve]) -> None:
    """Warns (`mipp.errors.CalibrationWarning`) where no unit of any group transfers anything."""
    if any(curve.total > 0 for curve in curves):
        return
    warnings.warn(
        "No unit transfers any information, so that the order in which they go is arbitrary: the "
        "gradient of the loss is zero at every layer, or no activation varies. Predictions of an "
        "untrained net can be so sure that nothing changes them. Check the activations in eval "
        "mode (BatchNorm without statistics of its own lets them grow), or use noise=0.1.",
        CalibrationWarning,
        stacklevel=_users_level(),
    )


def _users_level() -> int:
    """The ``stacklevel`` of the line that called mipp, as seen from the caller of this."""
    own = str(Path(__file__).parents[1]), str(contextlib.__file__)
    level, frame = 1, sys._getframe(1)  # noqa: SLF001  # warnings look at frames, too
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        level, frame = level + 1, frame.f_back
    return level
