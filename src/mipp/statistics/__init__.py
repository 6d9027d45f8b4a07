"""What each layer takes in, and how finely its output matters."""

from mipp.statistics.batches import Batch, agreed, read_batch, read_batches
from mipp.statistics.calling import advice, advised, blaming, check_call, check_images
from mipp.statistics.collect import (
    bytes_held,
    capture,
    collect,
    collect_in_order,
    in_passes,
    site_of,
)
from mipp.statistics.consumer_rows import Rows, answers, collect_rows
from mipp.statistics.joining import in_one, joinable, joined, same_constants
from mipp.statistics.loss import Loss, floating_outputs
from mipp.statistics.loss_per_nat import LossPerNat
from mipp.statistics.recorder import OF_ROWS, CaptureConfig, Site, Statistics
from mipp.statistics.shifted_labels import loss_shifts, noting_shift

__all__ = [
    "OF_ROWS",
    "Batch",
    "CaptureConfig",
    "Loss",
    "LossPerNat",
    "Rows",
    "Site",
    "Statistics",
    "advice",
    "advised",
    "agreed",
    "answers",
    "blaming",
    "bytes_held",
    "capture",
    "check_call",
    "check_images",
    "collect",
    "collect_in_order",
    "collect_rows",
    "floating_outputs",
    "in_one",
    "in_passes",
    "joinable",
    "joined",
    "loss_shifts",
    "noting_shift",
    "read_batch",
    "read_batches",
    "same_constants",
    "site_of",
]
