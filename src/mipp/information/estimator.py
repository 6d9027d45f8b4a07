"""What an estimator of information must offer, so that any of them works with any elimination.

The scorer that an estimator makes is a `mipp.records.Scorer`, all that `mipp.selection` sees of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from mipp.records import Scorer


@dataclass(frozen=True, eq=False)
class ConsumerView:
    """One consumer as one group sees it.

    ``covariance`` (d, d): of the features ``X`` it takes in. ``weight`` (m, d): rows of the outputs
    that are kept. ``fisher`` (m, m): Fisher information about those outputs at one position, or
    None. ``unit`` (d,): the group's unit that each feature belongs to, -1 for the features of other
    groups, which are taken as given. ``uses``: positions per example; nats are multiplied by it.
    """

    covariance: Float[Tensor, "d d"]
    weight: Float[Tensor, "m d"]
    fisher: Float[Tensor, "m m"] | None
    unit: Int[Tensor, " d"]
    uses: int


@runtime_checkable
class Estimator(Protocol):
    """Makes a scorer for a group from what its consumers take in."""

    def scorer(self, views: Sequence[ConsumerView], n_units: int) -> Scorer:
        """A fresh elimination over ``n_units`` units, none removed yet."""
        ...
