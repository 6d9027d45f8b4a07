"""Training, one loop for every method: ``mipp.retrain.train(model, batches, recipe)``."""

from mipp.retrain.history import EpochRecord, Evaluation, History
from mipp.retrain.hold import AnyStep, hold_masks, hold_zeros
from mipp.retrain.loop import Step, evaluate, train
from mipp.retrain.recipes import Recipe, recipe_for

__all__ = [
    "AnyStep",
    "EpochRecord",
    "Evaluation",
    "History",
    "Recipe",
    "Step",
    "evaluate",
    "hold_masks",
    "hold_zeros",
    "recipe_for",
    "train",
]
