"""What a model costs: multiply-accumulates, parameters, time."""

import copy
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from mipp import capture, graph
from mipp.errors import GraphError
from mipp.records import Cost

WARM_UP = 5
FEWEST, LONGEST = 11, 1.0
"""Runs at the least, and seconds after which no further one is started."""


def latency_ms(models: Sequence[nn.Module], batches: Iterable[Any]) -> list[float]:
    """Median milliseconds on the CPU for one example, of each model.

    The models take turns, so that whatever else the machine does slows all of them alike. The
    number of threads is left as it is.
    """
    example = capture.read_batches(batches, 1)[0].to(torch.device("cpu"))
    copies = [copy.deepcopy(model).cpu().eval() for model in models]
    seconds: list[list[float]] = [[] for _ in copies]
    with torch.inference_mode():
        for model in copies:
            for _ in range(WARM_UP):
                model(*example.args, **example.kwargs)
        end = time.perf_counter() + LONGEST * len(copies)
        while len(seconds[0]) < FEWEST or time.perf_counter() < end:
            for model, mine in zip(copies, seconds, strict=True):
                start = time.perf_counter()
                model(*example.args, **example.kwargs)
                mine.append(time.perf_counter() - start)
    return [1e3 * statistics.median(mine) for mine in seconds]


def cost_of(model: nn.Module, batches: Iterable[Any]) -> Cost | None:
    """Exact cost of a model as it is; None where it cannot be traced."""
    first = capture.read_batches(batches, 2)[0].to(next(model.parameters()).device)
    try:
        return graph.cost(graph.trace(model, first.args, first.kwargs))
    except GraphError:
        return None
