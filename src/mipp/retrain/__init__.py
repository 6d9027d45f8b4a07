"""Training: one plain loop, which every method uses.

Examples:
    >>> import mipp
    >>> model = mipp.models.build("digits_cnn", seed=0)
    >>> batches = mipp.data.Batches(mipp.data.load("digits"), 64, shuffle=True)
    >>> history = mipp.retrain.train(
    ...     model, batches, mipp.retrain.Recipe(epochs=1, peak_lr=0.05), progress=False
    ... )
    >>> len(history.epochs)
    1
"""

from mipp.retrain.history import EpochRecord, Evaluation, History
from mipp.retrain.hold import AnyStep, hold_masks, hold_zeros
from mipp.retrain.loop import Step, evaluate, train
from mipp.retrain.numerics import Numerics
from mipp.retrain.recipes import Recipe, recipe_for

__all__ = [
    "AnyStep",
    "EpochRecord",
    "Evaluation",
    "History",
    "Numerics",
    "Recipe",
    "Step",
    "evaluate",
    "hold_masks",
    "hold_zeros",
    "recipe_for",
    "train",
]
