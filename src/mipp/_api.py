"""The public names. `mipp` imports this module when the first of them is requested."""

from typing import TYPE_CHECKING

from mipp import data, errors, export, methods, models, prepare, presets, retrain
from mipp.errors import MippError
from mipp.features import FeatureSelection, select_features, terc
from mipp.information import Gaussian, Masked, Mlp, mutual_information
from mipp.latency import Latency
from mipp.methods import Training
from mipp.options import import_types
from mipp.planning import (
    BlockOptions,
    BlockPlan,
    KeptInformation,
    Options,
    Plan,
    WeightOptions,
    WeightPlan,
    information_kept,
    plan,
    plans,
    prune,
    tune,
)
from mipp.saving import FileInfo, inspect_file, load, save
from mipp.selection import Budget, Confidence, Share
from mipp.statistics import CaptureConfig
from mipp.surgery import Refit, original_indices
from mipp.tuning import Tune, Tuned

if TYPE_CHECKING:
    from mipp.features import FeatureSelector

import_types()  # annotations of the options can be read from now on

__all__ = [
    "BlockOptions",
    "BlockPlan",
    "Budget",
    "CaptureConfig",
    "Confidence",
    "FeatureSelection",
    "FeatureSelector",
    "FileInfo",
    "Gaussian",
    "KeptInformation",
    "Latency",
    "Masked",
    "MippError",
    "Mlp",
    "Options",
    "Plan",
    "Refit",
    "Share",
    "Training",
    "Tune",
    "Tuned",
    "WeightOptions",
    "WeightPlan",
    "data",
    "errors",
    "export",
    "information_kept",
    "inspect_file",
    "load",
    "methods",
    "models",
    "mutual_information",
    "original_indices",
    "plan",
    "plans",
    "prepare",
    "presets",
    "prune",
    "retrain",
    "save",
    "select_features",
    "terc",
    "tune",
]

_ERRORS = (
    "BudgetError", "CalibrationError", "CalibrationWarning", "FileError", "GraphError",
    "InputError", "SurgeryError", "TrainingError",
)  # fmt: skip

MOVED = {
    **{name: f"mipp.errors.{name}" for name in _ERRORS},
    **{name: f"mipp.export.{name}" for name in ("OnnxFile", "export_onnx", "to_semi_structured")},
    **{name: f"mipp.prepare.{name}" for name in ("folded", "restacked", "unstacked")},
    "bench": "python -m lab, in a clone of the repository",
    "capture": "mipp.statistics",
    "pipeline": "mipp.planning",
    "shipping": "mipp.export",
    "timing": "mipp.latency",
    "information_kept_by": "mipp.information_kept, which takes a list of choices, too",
    "scratch": "mipp.methods.scratch.same_size",
}
"""Old name -> where it is now."""
