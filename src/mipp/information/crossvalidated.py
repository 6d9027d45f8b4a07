"""Nats lost with a unit as the folds of the rows see it."""

from mipp.errors import InputError
from mipp.information.estimator import Observations
from mipp.records import FloatArray, IntArray


class CrossValidated:
    """Five held-out estimates of the nats lost with each unit that is left."""

    def __init__(self, view: Observations, ridge: float, seed: int, gone: IntArray) -> None:
        raise InputError("not there yet")

    def estimates(self, unit: int) -> FloatArray:
        """Nats lost with this unit, one estimate a fold, shape ``(5,)``."""
        raise InputError("not there yet")

    def remove(self, unit: int) -> None:
        """Removes one unit."""
