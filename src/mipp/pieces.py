"""Calibration batches as the pieces that a refit runs side by side."""

from collections.abc import Sequence

import torch
from torch import nn

from mipp import processes
from mipp.statistics import Batch, in_one, joined, same_constants
from mipp.surgery import Piece
from mipp.tracing.guards import measuring
from mipp.tracing.module_contents import ModuleContents

MOST_PIECES = 128
"""Batches that run side by side, each in a thread."""


def pieces_of(model: nn.Module, batches: Sequence[Batch]) -> list[Piece]:
    """The batches on the model's device as pieces of a walk.

    Very many small batches are joined into `MOST_PIECES`, as far as the model takes them joined;
    all of them into one for a model that keeps tensors from one forward pass to the next, whose
    passes cannot run side by side.
    """
    moved = [batch.to(_device_of(model)) for batch in batches]
    if len(moved) > 1 and keeps_tensors(model, moved[0].part(0, 2)):
        moved = [in_one(model, batches)[1]]
    elif (
        len(moved) > MOST_PIECES
        and all(batch.divisible for batch in moved)
        and same_constants(moved)
    ):
        each = -(-len(moved) // MOST_PIECES)
        moved = [joined(moved[at : at + each]) for at in range(0, len(moved), each)]
    rank, world = processes.rank_and_size()
    return [
        Piece((batch.args, batch.kwargs), number * world + rank, len(batch))
        for number, batch in enumerate(moved)
    ]


def runs_side_by_side(model: nn.Module, batches: Sequence[Batch]) -> bool:
    """Whether the batches are the pieces of a walk as they are, each beside the others."""
    few = len(batches) <= MOST_PIECES
    some = batches[0].part(0, 2).to(_device_of(model))
    return few and (len(batches) == 1 or not keeps_tensors(model, some))


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def keeps_tensors(model: nn.Module, batch: Batch) -> bool:
    """Whether modules have other tensors after a forward pass than before it."""
    with torch.no_grad(), measuring(model):
        contents = ModuleContents([model])
        model(*batch.args, **batch.kwargs)
        return contents.tensors_changed()
