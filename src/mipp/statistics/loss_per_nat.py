"""What turns nats as measured, at one consumer, into nats of the loss on other examples."""

import math
from dataclasses import dataclass

MOST = 1 / 2
"""Features as a share of rows, where there are more: so few rows say nothing about others."""


@dataclass(frozen=True)
class LossPerNat:
    """Nats of the loss for each nat that a consumer loses as its rows tell.

    Attributes:
        design_effect: how much more an example loses than its positions would, if they were
            independent (see `mipp.statistics.design_effect`).
        rows: that units were predicted in, and errors measured; infinite where errors are those of
            rows that were held out.

    Examples:
        >>> LossPerNat(design_effect=3.0, rows=400)(200)
        12.0
    """

    design_effect: float = 1.0
    rows: float = math.inf

    def __call__(self, features: float) -> float:
        """The factor where so many features are left to predict the others from.

        A regression on ``k`` features, fitted to ``n`` rows, has errors on other rows whose squares
        are about ``1 / (1 - k / n)^2`` times those on its own (generalised cross-validation: Golub,
        Heath and Wahba 1979, "Generalized cross-validation as a method for choosing a good ridge
        parameter").
        """
        share = min(features / self.rows, MOST)
        return self.design_effect / (1 - share) ** 2
