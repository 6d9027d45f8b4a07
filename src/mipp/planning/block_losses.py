"""What a model loses without blocks.

The loss is the divergence of the answers of the model without blocks from those of the whole model,
in nats for each prediction. Where the answer is no class scores it is half the squared error as a
share of the variance, which is the divergence of normal distributions of that variance.
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from mipp import processes, statistics, tuning
from mipp.options import BlockOptions, Progress
from mipp.planning.model_outputs import answering
from mipp.statistics.loss import answer_tensors
from mipp.surgery import RemovedBlock, without_blocks
from mipp.tracing.guards import measuring
from mipp.tuning.examples import Examples, units
from mipp.tuning.teacher import Teacher


class Losses:
    """Nats that are lost without blocks, each set of blocks measured once.

    Args:
        model: the whole model.
        batches: calibration batches.
        options: of the plan.
        progress: called as ``progress("score", done, total)``.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[statistics.Batch],
        options: BlockOptions,
        progress: Progress,
    ) -> None:
        self._model, self._progress, self._outputs = model, progress, options.outputs
        data = _first(batches, options.score_samples)
        parts = [(number, torch.arange(units(batch))) for number, batch in enumerate(data)]
        self._examples = Examples(data, parts, [], max(map(len, data)))
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        with torch.no_grad(), measuring(model):
            settings = tuning.Tune(loss=options.loss)  # type: ignore[arg-type] # as was checked
            seen = answering(model, options.outputs)
            self._teacher = Teacher(seen, self._examples, settings, options.memory / 4, device)
        self._known: dict[frozenset[str], float] = {frozenset(): 0.0}
        self.total = 1

    def __call__(self, blocks: Sequence[RemovedBlock]) -> float:
        """Nats for each prediction that the model loses without the blocks."""
        key = frozenset(block.name for block in blocks)
        if key not in self._known:
            self._known[key] = self._measured(blocks)
            done = len(self._known) - 1
            self._progress("score", done, max(self.total, done))
        return self._known[key]

    def _measured(self, blocks: Sequence[RemovedBlock]) -> float:
        small = answering(without_blocks(self._model, blocks, shared=True), self._outputs)
        teacher, sums, counts = self._teacher, [], []
        with torch.no_grad(), measuring(small):
            for parts in self._examples.pieces(self._examples.trained):
                batch = self._examples.batch(parts).to(teacher.device)
                answers = teacher.answers(parts, batch)
                with statistics.blaming(parts[0][0]):
                    found = answer_tensors(small(*batch.args, **batch.kwargs))
                some, n = teacher.apart(found, answers, batch, 1.0)
                sums.append(some.double())
                counts.append(n.double())
        total, count = torch.stack(sums).sum(0), torch.stack(counts).sum(0)
        processes.all_reduce("the divergence without blocks", total, count)
        lost = float((total / count.clamp(min=1)).mean())
        lost = lost if teacher.unit == "nats" else lost / 2
        return lost if math.isfinite(lost) else math.inf


def _first(batches: Sequence[statistics.Batch], samples: int) -> list[statistics.Batch]:
    """The first examples of the batches."""
    found, count = [], 0
    for batch in batches:
        if count >= samples:
            break
        found.append(batch.part(0, samples - count))
        count += len(found[-1])
    return found
