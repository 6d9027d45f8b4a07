"""How long a model takes with and without blocks."""

from collections.abc import Sequence

import numpy as np
from torch import nn

from mipp import latency, statistics
from mipp.planning.runtimes import Clock, Timed
from mipp.removable import Block
from mipp.surgery import RemovedBlock, without_blocks

FEW = 4
"""Models beside the whole one that are ready at a time, where each has weights of its own."""


class BlockSpeed(Clock):
    """How long the model takes, and how much of that each block.

    Args:
        model: the whole model.
        blocks: of it.
        batches: calibration batches.
        settings: how it is measured.

    Attributes:
        saved: milliseconds that the model is faster without a block, by its name.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        batches: Sequence[statistics.Batch],
        settings: latency.Latency,
    ) -> None:
        super().__init__(model, batches[0], settings)
        # elsewhere than in PyTorch each has weights of its own, so that few are ready at a time
        at_once = max(len(blocks), 1) if settings.runtime == "torch" else FEW
        shares: dict[str, float] = {}
        for start in range(0, max(len(blocks), 1), at_once):
            some = blocks[start : start + at_once]
            whole, *without = self.runs([self._without([block.gone]) for block in some])
            if not start:
                self.full = Timed(float(np.median(whole)), latency.scatter(whole))
            for block, mine in zip(some, without, strict=True):
                shares[block.name] = float(np.median(mine) / np.median(whole))
        self.saved = {name: max(self.full.ms * (1 - share), 0.0) for name, share in shares.items()}

    def time_without(self, blocks: Sequence[RemovedBlock]) -> Timed:
        """The time of the model without the blocks."""
        return self.time(self._without(blocks))

    def _without(self, blocks: Sequence[RemovedBlock]) -> nn.Module:
        return without_blocks(self._model, blocks, shared=True).eval()
