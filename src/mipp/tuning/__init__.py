"""Tuning a pruned model on the calibration examples, without labels.

The small model learns to give what the whole one gives (distillation). Examples that it does not
learn from decide when to stop, and whether anything is changed at all.
"""

from mipp.tuning.examples import examples_of
from mipp.tuning.passes import Course
from mipp.tuning.settings import Augment, Tune, Tuned, TunePass, read_tune
from mipp.tuning.two_trainings import tune, tune_on_all

__all__ = [
    "Augment", "Course", "Tune", "TunePass", "Tuned", "examples_of", "read_tune", "tune",
    "tune_on_all",
]  # fmt: skip
