"""What every method that ranks units has in common."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn

from mipp.capture import Batch, Loss
from mipp.records import ChannelGraph, Curve, FloatArray
from mipp.selection import Allocation


@dataclass(frozen=True)
class Question:
    """What a method is asked: how much each unit of this model matters."""

    model: nn.Module
    graph: ChannelGraph
    batches: Sequence[Batch]
    loss: Loss | str
    seed: int


Scores = Mapping[int, FloatArray]
"""Group index -> score of each unit, shape ``(n_units,)``; the lowest goes first."""


@dataclass(frozen=True)
class Method:
    """A way to rank units. ``needs``: what it looks at; ``allocation``: its usual widths."""

    name: str
    score: Callable[[Question], Scores]
    allocation: Allocation
    needs: Literal["weights", "data", "labels"]
    summary: str


def curves(scores: Scores) -> dict[int, Curve]:
    """Scores as curves, so that every allocation can spend them. Scores are no nats."""
    made = {}
    for group, values in scores.items():
        order = np.argsort(values, kind="stable")
        lost = np.concatenate([[0.0], np.cumsum(values[order])])
        made[group] = Curve(
            order=order.astype(np.int64),
            nats_lost=lost,
            total=float(lost[-1]),
            consumer_lost=lost[:, None],
            consumer_total=lost[-1:],
        )
    return made
