"""What each consumer takes in, and how finely its output matters."""

from mipp.capture.batches import Batch, agreed, blaming, read_batch, read_batches
from mipp.capture.calling import advice, advised, check_call, check_images
from mipp.capture.capture import CaptureConfig, Statistics, capture, chunks
from mipp.capture.joining import joinable, joined
from mipp.capture.loss import Loss, floating_outputs
from mipp.capture.rows import Rows, answers, collect_rows

__all__ = [
    "Batch",
    "CaptureConfig",
    "Loss",
    "Rows",
    "Statistics",
    "advice",
    "advised",
    "agreed",
    "answers",
    "blaming",
    "capture",
    "check_call",
    "check_images",
    "chunks",
    "collect_rows",
    "floating_outputs",
    "joinable",
    "joined",
    "read_batch",
    "read_batches",
]
