"""Mutual information preserving pruning of PyTorch networks.

```python
plan = mipp.plan(model, batches, budget="macs=50%")  # nothing is changed yet
small = plan.apply()  # a new, smaller nn.Module
```

Start with `plan`; its settings are the fields of `Options`, or, for single weights
(``granularity="weight"``), of `WeightOptions`. What is raised on purpose is a `MippError`.
"""

from mipp import data, methods, models, presets, retrain, weights
from mipp.errors import (
    BudgetError,
    CalibrationError,
    CalibrationWarning,
    FileError,
    GraphError,
    InputError,
    MippError,
    SurgeryError,
    TrainingError,
)
from mipp.export import OnnxFile, export_onnx, to_semi_structured
from mipp.features import FeatureSelection, FeatureSelector, select_features, terc
from mipp.information import Gaussian, Masked, Mlp, mutual_information
from mipp.latency import Latency
from mipp.methods import Training
from mipp.methods.scratch import same_size as scratch
from mipp.planning import (
    KeptInformation,
    Options,
    Plan,
    WeightOptions,
    WeightPlan,
    information_kept,
    plan,
    plans,
    prune,
)
from mipp.prepare import folded, restacked, unstacked
from mipp.selection import Budget, Confidence, Share
from mipp.statistics import CaptureConfig
from mipp.surgery import (
    Refit,
    load,
    original_indices,
    save,
)

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "BudgetError",
    "CalibrationError",
    "CalibrationWarning",
    "CaptureConfig",
    "Confidence",
    "FeatureSelection",
    "FeatureSelector",
    "FileError",
    "Gaussian",
    "GraphError",
    "InputError",
    "KeptInformation",
    "Latency",
    "Masked",
    "MippError",
    "Mlp",
    "OnnxFile",
    "Options",
    "Plan",
    "Refit",
    "Share",
    "SurgeryError",
    "Training",
    "TrainingError",
    "WeightOptions",
    "WeightPlan",
    "data",
    "export_onnx",
    "folded",
    "information_kept",
    "load",
    "methods",
    "models",
    "mutual_information",
    "original_indices",
    "plan",
    "plans",
    "presets",
    "prune",
    "restacked",
    "retrain",
    "save",
    "scratch",
    "select_features",
    "terc",
    "to_semi_structured",
    "unstacked",
    "weights",
]
