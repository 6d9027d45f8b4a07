"""Removing units from a model: slice the weights, refit the consumers, check, save and load."""

from mipp.surgery.attention_scale import with_attention_scale
from mipp.surgery.block_names import RemovedBlock
from mipp.surgery.blocks import recorded_blocks, take_out, without_blocks
from mipp.surgery.check import failure, probe, same_outputs
from mipp.surgery.files import load, save
from mipp.surgery.in_place import become
from mipp.surgery.keeps import (
    attribute_keeps,
    axis_keeps,
    fingerprint,
    kept_indices,
    scale_keeps,
    with_placeholders,
)
from mipp.surgery.kept_record import original_indices, recorded_sizes
from mipp.surgery.mask import mask_model, zero_placeholders, zeroed_axes
from mipp.surgery.optimizer import remap_optimizer
from mipp.surgery.outputs import compare
from mipp.surgery.record import PlanRecord, installed_version
from mipp.surgery.refit.fitting import LESS_MEMORY, Refit, best_fit, finite
from mipp.surgery.refit.original import Draw, Original
from mipp.surgery.refit.reached import Piece, Reached, WalkedLayer
from mipp.surgery.refit.ridge import pull_of
from mipp.surgery.refit.units import refit, rows_noted
from mipp.surgery.refit.walk import walk
from mipp.surgery.slice import apply_plan, slice_graph, slice_model
from mipp.surgery.tensors import named_tensors, state_shapes
from mipp.surgery.unread import unsure_sizes, with_unread_sizes
from mipp.surgery.weight_files import read_weights

__all__ = [
    "LESS_MEMORY",
    "Draw",
    "Original",
    "Piece",
    "PlanRecord",
    "Reached",
    "Refit",
    "RemovedBlock",
    "WalkedLayer",
    "apply_plan",
    "attribute_keeps",
    "axis_keeps",
    "become",
    "best_fit",
    "compare",
    "failure",
    "fingerprint",
    "finite",
    "installed_version",
    "kept_indices",
    "load",
    "mask_model",
    "named_tensors",
    "original_indices",
    "probe",
    "pull_of",
    "read_weights",
    "recorded_blocks",
    "recorded_sizes",
    "refit",
    "remap_optimizer",
    "rows_noted",
    "same_outputs",
    "save",
    "scale_keeps",
    "slice_graph",
    "slice_model",
    "state_shapes",
    "take_out",
    "unsure_sizes",
    "walk",
    "with_attention_scale",
    "with_placeholders",
    "with_unread_sizes",
    "without_blocks",
    "zero_placeholders",
    "zeroed_axes",
]
