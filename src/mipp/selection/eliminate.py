"""TERC, transfer entropy redundancy criterion: backward elimination of one group's units.

A unit stays only if the consumers lose information with it (Westphal, Hailes and Musolesi, "Mutual
Information Preserving Neural Network Pruning", arXiv 2411.00147). The elimination runs to the end
and gives the whole curve; where to stop is read off it, or decided on the way by a stop rule.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from mipp.records import Curve, FloatArray, Scorer
from mipp.selection.stop import Stop

Order = Literal["greedy", "ordered"]
"""``greedy``: all units left are scored anew at every step, and the least informative one goes.
``ordered``: one pass, least informative on its own first (the paper's MI ordering)."""


def eliminate(
    scorer: Scorer, order: Order = "greedy", advance: Callable[[int], None] | None = None
) -> Curve:
    """Removes all units one by one; the curve of nats lost, per example.

    ``advance`` is called with the number of units just removed (a progress bar).
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
    """Removes the units that the stop rule lets go; the curve ends with the last of them.

    ``ordered`` is the paper's single pass: each unit is tested once, least informative on its own
    first, and one that may not go is never looked at again. ``greedy`` tests the least informative
    unit left, and ends with the first that may not go. One unit always stays. ``advance`` is called
    with the number of units just dealt with.
    """
    total = _total(scorer)
    lost = summed = np.zeros_like(total)
    steps: list[tuple[int, FloatArray]] = []
    queue = iter(np.argsort(scorer.solo(), kind="stable") if order == "ordered" else ())
    told = 0
    for _ in range(scorer.n_units):
        if len(steps) == scorer.n_units - 1:
            break
        unit = int(next(queue) if order == "ordered" else np.argmin(scorer.scores()))
        goes = stop.may_go(scorer, unit, lost, total)
        if goes:
            nats = scorer.remove(unit)
            summed = summed + nats
            # as the curve will have it: what was lost does not come back
            lost = np.maximum(lost, summed)
            steps.append((unit, nats))
        elif order == "greedy":
            break
        if advance:
            advance(1)
            told += 1
    if advance and told < scorer.n_units:
        advance(scorer.n_units - told)
    return _curve(steps, total)


def untouched(scorer: Scorer) -> Curve:
    """The curve of a group that nothing is removed from."""
    return _curve([], _total(scorer))


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


def removable(curve: Curve, share: float) -> int:
    """How many units can go with every consumer keeping ``share`` of its information."""
    slack = 1e-9 * np.maximum(curve.consumer_total, 1e-12)
    fits = np.all(curve.consumer_lost <= (1 - share) * curve.consumer_total + slack, axis=1)
    return int(np.flatnonzero(np.cumprod(fits))[-1])
