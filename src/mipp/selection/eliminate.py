"""TERC, transfer entropy redundancy criterion: backward elimination of one group's units.

A unit stays only if the consumers lose information with it (Westphal, Hailes and Musolesi, "Mutual
Information Preserving Neural Network Pruning", arXiv 2411.00147). The elimination runs to the end
and gives the whole curve; where to stop is read off it, or a stop rule decides it on the way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.options import Order
from mipp.records import Curve, FloatArray, Scorer


@runtime_checkable
class Stop(Protocol):
    """Decides, unit by unit, what an elimination may remove."""

    def may_go(self, scorer: Scorer, unit: int, lost: FloatArray, total: FloatArray) -> bool:
        """Whether the unit may be removed now.

        Args:
            scorer: The elimination so far.
            unit: The unit in question.
            lost: Nats lost so far, shape ``(n_consumers,)``.
            total: Nats that all units transferred, shape ``(n_consumers,)``.
        """
        ...


@dataclass(frozen=True)
class Share:
    """Stop rule: every consumer keeps a share of its information.

    Attributes:
        share: Share of the nats, above 0 and at most 1.

    Examples:
        >>> Share(0.95).share
        0.95
    """

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
    """Stop rule: keep a unit only if it transfers entropy with this confidence.

    The estimator gives several estimates (five, as in the paper) of the nats lost with the unit,
    summed over its consumers. The unit stays if the one-sided Student t interval of their mean at
    this level lies above zero.

    A unit that says nothing stays less often than ``1 - level``: with ``gaussian`` and ``mlp``
    because overfitting pulls the estimates down, with ``masked`` because a unit has to pass two
    tests (`MaskedScorer`). Of 240 units at 0.95 at most 2.5 % stay. Of noisy copies of a useful
    unit 6 % do with ``masked``, which makes too little of what could replace a unit, and up to 3 %
    with the others. Units that transfer little are removed when there are few rows. Measured on
    data of known truth by ``python -m lab run confidence``, see docs/research/information.md.

    Source: Westphal, Hailes and Musolesi, arXiv 2411.00147, which does not say how the interval is
    made; Student's t with four degrees of freedom is the choice here.

    Attributes:
        level: The paper's parameter x, from 0.5 to below 1. At 0.5 every unit stays whose mean
            estimate is above zero; towards 1 more units are removed.

    Examples:
        >>> Confidence(0.99).level
        0.99
    """

    level: float | int = 0.95

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.5 <= self.level < 1:
            raise InputError(
                f"Confidence(level={self.level}); expected at least 0.5 and below 1, such as 0.95."
            )

    def may_go(self, scorer: Scorer, unit: int, lost: FloatArray, total: FloatArray) -> bool:  # noqa: ARG002
        """Whether the confidence that the unit transfers entropy is too low."""
        return surely_positive(scorer.estimates(unit).sum(1)) <= self.level


def surely_positive(estimates: FloatArray) -> float:
    """Confidence (0 to 1) that the mean of the estimates, shape ``(n,)``, is above zero.

    Raises:
        InputError: There are fewer than two, or some are not finite.
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


def eliminate(
    scorer: Scorer, order: Order = "greedy", advance: Callable[[int], None] | None = None
) -> Curve:
    """Removes all units one by one.

    Args:
        scorer: A fresh elimination.
        order: Which unit is removed next.
        advance: Called with the number of units just removed (a progress bar).

    Returns:
        The curve of nats lost, per example.
    """
    total = _total(scorer)
    steps: list[tuple[int, FloatArray]] = []
    if order == "greedy":
        stride = max(1, scorer.n_units // 16)
        while len(steps) < scorer.n_units:
            some = scorer.remove_least(min(stride, scorer.n_units - len(steps)))
            steps += some
            if advance:
                advance(len(some))
    else:
        for unit in np.argsort(scorer.solo(), kind="stable"):
            steps.append((int(unit), scorer.remove(int(unit))))
            if advance:
                advance(1)
    return _curve(steps, total)


def eliminate_until(
    scorer: Scorer,
    stop: Stop,
    order: Order = "ordered",
    advance: Callable[[int], None] | None = None,
) -> Curve:
    """Removes the units that the stop rule allows; the curve ends with the last of them.

    One unit always stays.

    Args:
        scorer: A fresh elimination.
        stop: The stop rule.
        order: ``ordered`` is the paper's single pass: each unit is tested once, least informative
            on its own first, and a unit that may not be removed is never tested again. ``greedy``
            tests the least informative unit left, and ends with the first that may not be removed.
        advance: Called with the number of units just dealt with.
    """
    total = _total(scorer)
    lost = summed = np.zeros_like(total)
    steps: list[tuple[int, FloatArray]] = []
    queue = iter(np.argsort(scorer.solo(), kind="stable") if order == "ordered" else ())
    reported = 0
    for _ in range(scorer.n_units):
        if len(steps) == scorer.n_units - 1:
            break
        unit = int(next(queue) if order == "ordered" else np.argmin(scorer.scores()))
        if stop.may_go(scorer, unit, lost, total):
            nats = scorer.remove(unit)
            summed = summed + nats
            # as the curve will have it: what was lost does not come back
            lost = np.maximum(lost, summed)
            steps.append((unit, nats))
        elif order == "greedy":
            break
        if advance:
            advance(1)
            reported += 1
    if advance and reported < scorer.n_units:
        advance(scorer.n_units - reported)
    return _curve(steps, total)


def untouched(scorer: Scorer) -> Curve:
    """The curve of a group that nothing is removed from."""
    return _curve([], _total(scorer))


def removable(curve: Curve, share: float) -> int:
    """Number of units that can be removed with every consumer keeping ``share`` of its nats."""
    slack = 1e-9 * np.maximum(curve.consumer_total, 1e-12)
    fits = np.all(curve.consumer_lost <= (1 - share) * curve.consumer_total + slack, axis=1)
    return int(np.flatnonzero(np.cumprod(fits))[-1])


def _total(scorer: Scorer) -> FloatArray:
    # an estimate of information below zero is noise
    return np.maximum(scorer.total(), 0)


def _curve(steps: list[tuple[int, FloatArray]], total: FloatArray) -> Curve:
    lost = np.zeros((len(steps) + 1, len(total)))
    if steps:
        # an estimate that a unit's loss is below zero is noise
        summed = np.cumsum([nats for _, nats in steps], axis=0)
        lost[1:] = np.maximum.accumulate(np.maximum(summed, 0), axis=0)
    return Curve(
        order=np.array([unit for unit, _ in steps], dtype=np.int64),
        nats_lost=lost.sum(1),
        total=float(total.sum()),
        consumer_lost=lost,
        consumer_total=np.asarray(total, dtype=float),
    )
