"""Calibration batches as the pieces that a refit runs side by side."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from mipp import processes
from mipp.statistics import Batch, in_one, joined
from mipp.surgery import Piece

MOST_PIECES = 128
"""Batches that run side by side, each in a thread."""


def pieces_of(
    model: nn.Module, batches: Sequence[Batch]
) -> tuple[list[Piece], Callable[[], list[Piece]]]:
    """The batches on the model's device as pieces of a walk, and what joins them into one.

    Very many small batches are joined into `MOST_PIECES`, as far as the model takes them joined.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    rank, world = processes.rank_and_size()

    def pieces(given: Sequence[Batch]) -> list[Piece]:
        return [
            Piece((batch.args, batch.kwargs), number * world + rank, len(batch))
            for number, batch in enumerate(given)
        ]

    def one() -> list[Piece]:
        return pieces([in_one(model, batches)[1]])

    moved = [batch.to(device) for batch in batches]
    if len(moved) > MOST_PIECES and all(batch.divisible for batch in moved):
        each = -(-len(moved) // MOST_PIECES)
        moved = [joined(moved[at : at + each]) for at in range(0, len(moved), each)]
    return pieces(moved), one
