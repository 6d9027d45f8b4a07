"""When a unit may go: the stop rules of an elimination."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.records import FloatArray, Scorer


@runtime_checkable
class Stop(Protocol):
    """Decides, unit by unit, what an elimination may remove."""

    def may_go(self, scorer: Scorer, unit: int, lost: FloatArray, total: FloatArray) -> bool:
        """Whether the unit may be removed now.

        Parameters:
            lost: nats lost so far, shape ``(n_consumers,)``.
            total: nats that all units transferred, shape ``(n_consumers,)``.
        """
        ...


@dataclass(frozen=True)
class Share:
    """Every consumer keeps ``share`` of its information (0 to 1)."""

    share: float | int

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.share <= 1:
            raise InputError(
                f"Share(share={self.share}); expected above 0 and at most 1, such as 0.99."
            )

    def may_go(self, scorer: Scorer, unit: int, lost: FloatArray, total: FloatArray) -> bool:
        """Whether every consumer still keeps the share without the unit."""
        slack = 1e-9 * np.maximum(total, 1e-12)
        return bool(np.all(lost + scorer.nats_of(unit) <= (1 - self.share) * total + slack))


@dataclass(frozen=True)
class Confidence:
    """A unit stays only if we are more than ``level`` sure that it transfers entropy.

    The estimator gives several estimates (five, as in the paper) of the nats lost with the unit,
    summed over its consumers. Sure means: the one-sided Student t interval of their mean at that
    level lies above zero. ``level`` is the paper's knob x: at 0.5 every unit stays whose mean
    estimate is above zero; towards 1 more go.

    With ``gaussian`` and ``mlp`` a useless unit stays less often than ``1 - level``: overfitting
    pulls their estimates down. With ``masked``, whose five estimates share one network and so agree
    too well, it stays about twice as often (8 to 13 % at 0.95). Units that transfer little go when
    the rows are few. (Data of known truth: tests/selection/test_stop.py.)

    Source: Westphal, Hailes and Musolesi, arXiv 2411.00147, which does not say how the interval is
    made; Student's t with four degrees of freedom is the choice here.
    """

    level: float | int = 0.95

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.5 <= self.level < 1:
            raise InputError(
                f"Confidence(level={self.level}); expected at least 0.5 and below 1, such as 0.95."
            )

    def may_go(self, scorer: Scorer, unit: int, lost: FloatArray, total: FloatArray) -> bool:  # noqa: ARG002
        """Whether we are not that sure that the unit transfers entropy."""
        return surely_positive(scorer.estimates(unit).sum(1)) <= self.level


def surely_positive(estimates: FloatArray) -> float:
    """How sure we are that the mean of the estimates, shape ``(n,)``, is above zero (0 to 1).

    Raises:
        InputError: for fewer than two, or some that are not finite.
    """
    n = len(estimates)
    if n < 2:
        raise InputError(
            f"{n} estimate of the nats lost with a unit; a stop rule by confidence needs two at "
            "the least. Use stop=mipp.Share(...) with this estimator."
        )
    if not np.isfinite(estimates).all():
        raise InputError(
            f"The estimates {estimates.tolist()} are not finite. Check the rows, or lower the "
            "learning rate of a learned estimator."
        )
    mean, deviation = float(estimates.mean()), float(estimates.std(ddof=1))
    if deviation == 0:
        return float(mean > 0)
    from scipy import stats  # noqa: PLC0415 - takes half a second to import

    return float(stats.t.cdf(mean / (deviation / np.sqrt(n)), n - 1))
