"""A second opinion on each unit, for a network whose faults all folds share."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mipp.information.learned.learned_scorer import LearnedScorer, Side
from mipp.records import FloatArray


class ExchangingSide(Side, Protocol):
    """A `Side` that can also exchange a unit's values between rows."""

    def exchanged(self, unit: int) -> FloatArray:
        """Loss with the values of one unit exchanged between the rows of a fold, ``(folds,)``."""
        ...


class MaskedScorer(LearnedScorer):
    """A `LearnedScorer` whose `estimates` do not mistake a fault of the network for information.

    Masking a unit also changes what the network is asked: the loss may rise because it learned
    little under that mask. Exchanging the unit's values between rows is the control: if the unit
    is independent of everything else, exchanged rows are as likely as the real ones, so that the
    two losses have the same mean, whatever the network has learned (permutation importance,
    Breiman 2001). Exchanging alone would not do, since of two copies neither could be removed.
    A unit has to pass both tests to count as useful, so that a useless one stays at most as often
    as in either of them (an intersection-union test, Berger 1982).

    Args:
        sides: One for each consumer.
        n_units: Number of units of the group.
        share_per_round: As in `LearnedScorer`.
    """

    def __init__(
        self, sides: Sequence[ExchangingSide], n_units: int, share_per_round: float
    ) -> None:
        super().__init__(sides, n_units, share_per_round)
        self._exchanging = sides

    def estimates(self, unit: int) -> FloatArray:
        """Nats lost with the unit in each fold, ``(folds, n_consumers)``, masked or exchanged.

        Of the two comparisons the one with less evidence (mean over standard deviation) that the
        sum over consumers is above zero. If masking costs nothing on average, it decides.
        """
        masked = super().estimates(unit)
        if masked.sum(1).mean() <= 0:
            return masked
        exchanged = [side.exchanged(unit) - side.left() for side in self._exchanging]
        return min(masked, np.stack(exchanged, 1), key=_evidence)


def _evidence(estimates: FloatArray) -> float:
    """Student's t of the sum over consumers, up to a factor."""
    summed = estimates.sum(1)
    mean, deviation = float(summed.mean()), float(summed.std(ddof=1))
    return mean / deviation if deviation > 0 else mean * np.inf if mean else 0.0
