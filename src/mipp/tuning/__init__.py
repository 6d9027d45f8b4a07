"""Tuning a pruned model on the calibration examples, without labels.

The small model learns to give what the whole one gives (distillation). Examples that it does not
learn from decide when to stop, and whether anything is changed at all.
"""

from mipp.tuning.examples import examples_of, without_as_many
from mipp.tuning.passes import distance, tune
from mipp.tuning.settings import Augment, Tune, Tuned, TunePass, read_tune

__all__ = [
    "Augment", "Tune", "TunePass", "Tuned", "distance", "examples_of", "read_tune", "tune",
    "without_as_many",
]  # fmt: skip
