"""What an elimination over features found."""

from dataclasses import dataclass

import numpy as np

from mipp.errors import InputError
from mipp.records import KEPT, BoolArray, FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class FeatureSelection:
    """Which features stay, in which order the others went, and what that lost.

    ``order``: units in order of removal, shape ``(n_removed,)``. ``nats_lost``: nats lost after the
    first ``n`` removals, shape ``(n_removed + 1,)``, first entry 0, never falling. ``kept``: the
    units that stay, ascending. ``total``: nats that all units together transfer. ``unit``: in the
    shape of one example, the unit that each feature belongs to; -1 where it is always given.
    """

    order: IntArray
    nats_lost: FloatArray
    kept: IntArray
    total: float
    unit: IntArray

    @property
    def n_units(self) -> int:
        """How many units there were."""
        return int(self.unit.max()) + 1

    @property
    def mask(self) -> BoolArray:
        """True for every feature of a unit that stays, in the shape of one example."""
        return self.mask_of(self.kept)

    @property
    def scores(self) -> FloatArray:
        """What it costs to go without each feature, in the shape of one example.

        The nats that are lost, in all, once its unit and all before it have gone; infinite for one
        that never went. Features with a score above ``s`` are a set that loses ``s`` nats at most.
        """
        score = np.full(self.n_units, np.inf)
        score[self.order] = self.nats_lost[1:]
        return np.where(self.unit == KEPT, np.inf, score[self.unit])

    def last(self, n_units: int) -> IntArray:
        """The ``n_units`` units that stay longest, ascending.

        Raises:
            InputError: when the elimination ended before so few were left.
        """
        least = self.n_units - len(self.order)
        if not least <= n_units <= self.n_units:
            raise InputError(
                f"{n_units} units were asked for; this elimination has {least} to {self.n_units}. "
                "Without a rule it goes on to the end."
            )
        return np.setdiff1d(np.arange(self.n_units), self.order[: self.n_units - n_units])

    def mask_of(self, units: IntArray) -> BoolArray:
        """True for every feature of these units, in the shape of one example."""
        stays = np.zeros(self.n_units, dtype=bool)
        stays[units] = True
        return np.asarray((self.unit == KEPT) | stays[self.unit])
