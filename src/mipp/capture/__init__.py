"""What each consumer takes in, and how finely its output matters."""

from mipp.capture.batches import Batch, read_batches
from mipp.capture.capture import CaptureConfig, Statistics, capture, chunks
from mipp.capture.loss import Loss, floating_outputs

__all__ = [
    "Batch",
    "CaptureConfig",
    "Loss",
    "Statistics",
    "capture",
    "chunks",
    "floating_outputs",
    "read_batches",
]
