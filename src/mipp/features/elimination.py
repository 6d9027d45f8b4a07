"""Removal of features one by one: the rule that ends it, the elimination, and its result."""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, get_args

import numpy as np

from mipp import selection
from mipp.errors import InputError
from mipp.records import KEPT, BoolArray, FloatArray, IntArray, Scorer


@dataclass(frozen=True, eq=False)
class FeatureSelection:
    """Which features are kept, the order in which the others were removed, and the nats lost.

    Attributes:
        order: units in order of removal, shape ``(n_removed,)``.
        nats_lost: nats lost after the first ``n`` removals, shape ``(n_removed + 1,)``, first entry
            0, never falling.
        kept: units that are kept, ascending.
        total: nats that all units together transfer.
        unit: the unit of each feature, in the shape of one example; -1 where it is always given.

    Examples:
        >>> import mipp
        >>> X = np.random.default_rng(0).standard_normal((500, 3))
        >>> found = mipp.terc(X, X[:, 1])
        >>> found.mask.tolist(), found.last(1).tolist()
        ([False, True, False], [1])
    """

    order: IntArray
    nats_lost: FloatArray
    kept: IntArray
    total: float
    unit: IntArray

    @property
    def n_units(self) -> int:
        """Number of units before the elimination."""
        return int(self.unit.max()) + 1

    @property
    def mask(self) -> BoolArray:
        """True for every feature of a kept unit, in the shape of one example."""
        return self.mask_of(self.kept)

    @property
    def scores(self) -> FloatArray:
        """The cost of removing each feature, in the shape of one example.

        This is the total loss in nats once its unit and all before it are removed; infinite for a
        unit that was never removed. Features with a score above ``s`` are a set that loses at most
        ``s`` nats.
        """
        score = np.full(self.n_units, np.inf)
        score[self.order] = self.nats_lost[1:]
        return np.where(self.unit == KEPT, np.inf, score[self.unit])

    def last(self, n_units: int) -> IntArray:
        """The last ``n_units`` units of the elimination, ascending.

        Raises:
            InputError: if the elimination ended before so few units were left.
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


Rule = selection.Stop | int | None
"""A stop rule, a number of units to keep, or None: a default rule, and a full order of removal."""

CRITERION = selection.Confidence(0.95)
"""The paper's test, at the level of TERC's authors (two standard errors)."""

NEARLY_ALL = selection.Share(0.99)
"""For known outputs: there is no confidence to test, and no unit has a loss of exactly 0."""


def read_rule(
    n_units: int,
    stop: selection.Stop | None,
    confidence: float | None,
    share: float | int | None,
    keep: float | int | None,
) -> Rule:
    """The rule that was given, in one of four forms; None if there is none.

    Raises:
        InputError: for more than one of them, or a number out of its range.
    """
    given = {"stop": stop, "confidence": confidence, "share": share, "keep": keep}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise InputError(f"{', '.join(f'{n}=' for n in named)} were given; give one of them.")
    if confidence is not None:
        return selection.Confidence(confidence)
    if share is not None:
        if not 0 < share <= 1:
            raise InputError(
                f"share={share}; expected the share of the information to keep, above 0 and at "
                "most 1, such as 0.99."
            )
        return selection.Share(float(share))
    return stop if keep is None else read_keep(keep, n_units)


def read_keep(keep: Any, n_units: int, name: str = "keep") -> int:
    """How many units to keep, from a number of them or a share; ``name`` is for the error text.

    Raises:
        InputError: for less than one unit, or more than ``n_units``.
    """
    if isinstance(keep, Real) and not isinstance(keep, (bool, np.bool_)):
        number = float(keep)
        if isinstance(keep, Integral) and 1 <= number <= n_units:
            return int(number)
        if not isinstance(keep, Integral) and 0 < number <= 1:
            return max(1, round(number * n_units))
    raise InputError(
        f"{name}={keep!r} of {n_units}; expected a whole number from 1 to {n_units}, or a share "
        "above 0.0 and at most 1.0."
    )


def read_order(order: str) -> selection.Order:
    """The order, checked."""
    for known in get_args(selection.Order):
        if order == known:
            return known
    raise InputError(f"order={order!r}; expected 'ordered' or 'greedy'.")


def eliminate(
    scorer: Scorer,
    order: selection.Order,
    rule: Rule,
    unit: IntArray,
    otherwise: selection.Stop = CRITERION,
) -> FeatureSelection:
    """Remove units as far as the rule goes.

    ``greedy`` with a number of units to keep removes the least informative unit, again and again.
    In all other cases a stop rule decides first, unit by unit (``otherwise`` if none was given).
    The remaining units are removed after that, always the least informative one, down to the number
    to keep.
    """
    n_units = scorer.n_units
    total = float(scorer.total().sum())
    steps: list[int] = []
    lost = [0.0]
    if order == "ordered" or not isinstance(rule, int):
        steps, lost = _until(scorer, rule if isinstance(rule, selection.Stop) else otherwise, order)
    tested = len(steps)
    if not isinstance(rule, selection.Stop):
        wanted = n_units - (rule or 0)
        for one, nats in scorer.remove_least(max(0, wanted - tested)):
            _note(one, nats, steps, lost)
        steps, lost = steps[:wanted], lost[: wanted + 1]
    gone = steps[:tested] if rule is None else steps
    return FeatureSelection(
        order=np.array(steps, dtype=np.int64),
        nats_lost=np.array(lost),
        kept=np.setdiff1d(np.arange(n_units), gone),
        total=total,
        unit=unit,
    )


def _until(
    scorer: Scorer, stop: selection.Stop, order: selection.Order
) -> tuple[list[int], list[float]]:
    """Units that the stop rule removes, and nats lost after each of them."""
    curve = selection.eliminate_until(scorer, stop, order)
    steps, lost = curve.order.tolist(), curve.nats_lost.tolist()
    if len(steps) == scorer.n_units - 1:
        # a layer has to keep one unit, features need not: the last one is tested like all others
        (unit,) = set(range(scorer.n_units)) - set(steps)
        if stop.may_go(scorer, unit, curve.consumer_lost[-1], curve.consumer_total):
            _note(unit, scorer.remove(unit), steps, lost)
    return steps, lost


def _note(unit: int, nats: FloatArray, steps: list[int], lost: list[float]) -> None:
    steps.append(unit)
    # an estimate that a unit's loss is below zero is noise
    lost.append(lost[-1] + max(0.0, float(nats.sum())))
