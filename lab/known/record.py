"""A distribution that knows its own mutual information."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mipp.errors import InputError
from mipp.records import FloatArray, IntArray

Sample = tuple[FloatArray, FloatArray | IntArray]
"""X (n, dim_x), and Y: real numbers (n, dim_y) or class indices (n,)."""

How = Literal["closed form", "enumeration", "quadrature"]
"""Where the true information comes from. Quadrature here is exact to 1e-8 nats or better."""


@dataclass(frozen=True, eq=False)
class Known:
    """A joint distribution of X and Y whose mutual information is known.

    ``name``: for tables. ``mi``: the true I(X; Y) in nats. ``how``: where that comes from.
    ``draw``: makes (X, Y) of n rows from a generator. ``unit`` (dim_x,): which unit each feature of
    X belongs to. ``enough``: every set of units that carries all of ``mi`` and of which none can be
    spared; empty where that was not worked out.
    """

    name: str
    mi: float
    how: How
    draw: Callable[[int, np.random.Generator], Sample]
    unit: tuple[int, ...]
    enough: tuple[frozenset[int], ...] = ()

    @property
    def dim_x(self) -> int:
        """Number of features of X."""
        return len(self.unit)

    @property
    def n_units(self) -> int:
        """Number of units of X."""
        return max(self.unit) + 1

    def sample(self, n: int, seed: int = 0) -> Sample:
        """``n`` independent rows: X (n, dim_x), and Y (n, dim_y) real or (n,) class indices.

        The same ``n`` and ``seed`` give the same rows.

        Raises:
            InputError: when ``n`` is below 1.
        """
        if n < 1:
            raise InputError(f"sample(n={n}); expected at least one row.")
        return self.draw(n, np.random.default_rng(seed))

    def with_distractors(self, count: int) -> "Known":
        """The same with ``count`` more units, standard normal and independent of all else.

        Raises:
            InputError: when ``count`` is negative.
        """
        if count < 0:
            raise InputError(f"with_distractors({count}); expected a count of units, 0 or more.")
        if count == 0:
            return self

        def draw(n: int, rng: np.random.Generator) -> Sample:
            x, y = self.draw(n, rng)
            return np.hstack([x, rng.standard_normal((n, count))]), y

        more = tuple(range(self.n_units, self.n_units + count))
        name = f"{self.name}, {count} distractors"
        return replace(self, name=name, draw=draw, unit=self.unit + more)
