"""How long a model takes with and without blocks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mipp import latency, statistics
from mipp.planning import runtimes
from mipp.planning.latency_budget import FEWEST, Timed
from mipp.removable import Block
from mipp.surgery import RemovedBlock, without_blocks
from mipp.tracing.guards import measuring

FEW = 4
"""Models beside the whole one that are ready at a time, where each has weights of its own."""


class BlockSpeed:
    """How long the model takes, and how much of that each block.

    Args:
        model: the whole model.
        blocks: of it.
        batches: calibration batches.
        settings: how it is measured.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        batches: Sequence[statistics.Batch],
        settings: latency.Latency,
    ) -> None:
        self._model, self._settings = model, settings
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._example = runtimes.example_for(batches[0], settings, self._device)
        small = [without_blocks(model, [block.gone], shared=True) for block in blocks]
        with measuring(model):
            self._whole = self._ready(model)
            # elsewhere than in PyTorch each has weights of its own, so that few are ready at a time
            at_once = len(small) if settings.runtime == "torch" else FEW
            runs, ratios = [], []
            for start in range(0, len(small), max(at_once, 1)):
                works = [self._ready(one.eval()) for one in small[start : start + at_once]]
                whole, *without = self._time([self._whole, *works])
                runs.append(whole)
                ratios += [float(np.median(mine) / np.median(whole)) for mine in without]
        full = float(np.median(runs[0]))
        self.full = Timed(full, latency.scatter(runs[0]))
        self.saved = {
            block.name: max(full * (1 - ratio), 0.0)
            for block, ratio in zip(blocks, ratios, strict=True)
        }

    def time(self, blocks: Sequence[RemovedBlock]) -> Timed:
        """The time of the model without the blocks, in turns with the whole one."""
        small = without_blocks(self._model, blocks, shared=True)
        with measuring(self._model):
            full, mine = self._time([self._whole, self._ready(small.eval())])
        ratio = float(np.median(mine) / np.median(full))
        return Timed(ratio * self.full.ms, latency.scatter(mine, full) * self.full.ms)

    def describe(self, checked: Timed) -> dict[str, Any]:
        """How it was measured, as plain values."""
        return {
            **runtimes.described(self._settings, self._device),
            "scatter_ms": [self.full.scatter, checked.scatter],
        }

    def _ready(self, model: nn.Module) -> latency.Work:
        return runtimes.ready(model, self._example, self._settings)

    def _time(self, works: Sequence[latency.Work]) -> list[Any]:
        return self._settings.stopwatch(
            works, seconds=self._settings.model_seconds, fewest=FEWEST, device=self._device
        )
