"""The clock and the count of one model, as the commands show them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mipp import graph, latency, statistics
from mipp.errors import GraphError
from mipp.prunable import with_routes
from mipp.records import Cost
from mipp.tracing.guards import duplicate

FEWEST, LONGEST = 11, 1.0
"""Fewest runs of a model, and seconds for each model after which no further run starts."""


def latency_ms(
    models: Sequence[nn.Module], batches: Iterable[Any], others: Sequence[latency.Work] = ()
) -> list[float]:
    """Median milliseconds on the CPU for one example, of each model, then of each other work.

    They take turns, so that other load on the machine slows all of them alike. The number of
    threads stays as it is.
    """
    cpu = torch.device("cpu")
    example = statistics.read_batches(batches, 1)[0].to(cpu)
    works = [_work(duplicate(model).cpu().eval(), example) for model in models]
    works += others
    runs = latency.take_turns(works, seconds=LONGEST * len(works), fewest=FEWEST, device=cpu)
    return [float(np.median(mine)) for mine in runs]


def _work(model: nn.Module, example: statistics.Batch) -> latency.Work:
    return lambda: model(*example.args, **example.kwargs)


def cost_of(model: nn.Module, batches: Iterable[Any]) -> Cost | None:
    """Exact cost of a model as it is; None if it cannot be traced."""
    data = statistics.read_batches(batches, 64)
    first = data[0].part(0, 2).to(next(model.parameters()).device)
    try:
        return graph.cost(with_routes(model, graph.trace(model, first.args, first.kwargs), data))
    except GraphError:
        return None
