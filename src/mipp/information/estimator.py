"""What an estimator of information must offer, so that any of them works with any elimination.

The scorer that an estimator makes is a `mipp.records.Scorer`, all that `mipp.selection` sees of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from mipp.covariance import Covariance
from mipp.records import Scorer

Reads = Literal["moments", "rows"]
"""``moments``: second moments (`ConsumerView`) are enough. ``rows``: needs `Observations`."""

RowShape = Literal["maps", "positions"]
"""What one row of a convolution is. ``maps``: an example; the features of a unit are its whole map.
``positions``: the patch under the kernel at one position; a unit's features are its cells."""


@dataclass(frozen=True, eq=False)
class ConsumerView:
    """One consumer as one group sees it.

    ``covariance`` (d, d): of the features ``X`` it takes in, as a matrix or a `Factor`. ``weight`` (m, d): rows of the outputs
    that are kept. ``fisher`` (m, m): Fisher information about those outputs at one position, or
    None. ``unit`` (d,): the group's unit that each feature belongs to, -1 for the features of other
    groups, which are taken as given. ``uses``: positions per example; nats are multiplied by it.
    """

    covariance: Covariance
    weight: Float[Tensor, "m d"]
    fisher: Float[Tensor, "m m"] | None
    unit: Int[Tensor, " d"]
    uses: float | int


@dataclass(frozen=True, eq=False)
class Observations:
    """Rows of one consumer as one group sees it: what it takes in, and what is to be told from it.

    ``inputs`` (rows, d): the features ``X``. ``targets``: (rows, m) real numbers, or (rows,) class
    indices from 0. ``unit`` (d,) and ``uses`` as in `ConsumerView`. ``noise``: variance of the
    independent Gaussian noise that real targets are seen through, the same in each of them; 0 where
    they are noisy as they are. ``example`` (rows,): which example a row is from (rows of one
    example are never split between fitting and testing); None where each is one of its own.
    """

    inputs: Float[Tensor, "rows d"]
    targets: Float[Tensor, "rows m"] | Int[Tensor, " rows"]
    unit: Int[Tensor, " d"]
    uses: float | int = 1
    noise: float = 0.0
    example: Int[Tensor, " rows"] | None = None


View = ConsumerView | Observations


@runtime_checkable
class Estimator(Protocol):
    """Makes a scorer for a group from what its consumers take in."""

    @property
    def name(self) -> str:
        """As in ``mipp.plan(estimator=...)``."""
        ...

    @property
    def reads(self) -> Reads:
        """What it has to be given, at the least; all of them take `Observations`."""
        ...

    @property
    def row_shape(self) -> RowShape:
        """Which rows it wants of a convolution."""
        ...

    @property
    def noise(self) -> float | str:
        """What counts as noise in a consumer's output: ``"fisher"``, or a share of its variance."""
        ...

    def scorer(self, views: Sequence[View], n_units: int, seed: int = 0) -> Scorer:
        """A fresh elimination over ``n_units`` units, none removed yet.

        Parameters:
            views: the group's consumers.
            seed: of whatever the estimator draws.
        """
        ...
