"""Spend a budget on single weights: how many weights each row keeps for the fewest nats lost.

Each row has a curve of nats lost against weights kept. At a price p per weight a row keeps the
number that minimises nats + p * kept, which is a corner of the curve's lower convex hull. One
price for all rows of all layers gives the fewest nats for the sum of weights (Lagrange). What is
left over of the budget goes to rows at a corner of equal price.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mipp.errors import BudgetError, InputError
from mipp.records import FloatArray, IntArray

Spread = Literal["priced", "uniform", "rows"]
"""How a budget of single weights is spread.

* ``priced``: one price for all rows of all layers.
* ``uniform``: every layer keeps the same share, and its rows have one price.
* ``rows``: every row keeps the same share.
"""


@dataclass(frozen=True, eq=False)
class Choice:
    """The curves of the rows of one layer.

    Attributes:
        kept: Weights kept, falling along each curve, shape ``(n, t)``.
        nats: Nats lost at that number of weights, shape ``(n, t)``.
    """

    kept: IntArray
    nats: FloatArray

    @property
    def whole(self) -> int:
        """Number of weights of the layer."""
        return int(self.kept[:, 0].sum())

    @property
    def total(self) -> float:
        """Nats lost when all weights are removed."""
        return float(self.nats[:, -1].sum())

    def at(self, price: float | int) -> IntArray:
        """Best place along each curve, ``(n,)``; of two that cost the same, the fewer weights."""
        cost = self.nats + price * self.kept
        t = cost.shape[1]
        return t - 1 - np.argmin(cost[:, ::-1], axis=1)

    def sums(self, places: IntArray) -> tuple[int, float]:
        """Weights kept and nats lost at these places, summed over the rows."""
        rows = np.arange(len(places))
        return int(self.kept[rows, places].sum()), float(self.nats[rows, places].sum())


def spend(
    choices: Mapping[str, Choice],
    most: float | int | None,
    share: float | int | None,
    spread: str = "priced",
) -> dict[str, IntArray]:
    """Chooses how many weights each row keeps.

    Args:
        choices: Layer name -> the curves of its rows.
        most: Weights that may be left in all layers together. At least one of ``most`` and
            ``share`` is given.
        share: Share of its nats that every layer has to keep.
        spread: How the budget is spread, one of `Spread`.

    Returns:
        Layer name -> weights that each row keeps, shape ``(n,)``.

    Raises:
        BudgetError: ``most`` and ``share`` cannot both be met.
        InputError: The spread is unknown, or a share goes with another spread than ``"priced"``.
    """
    if spread not in get_args(Spread):
        raise InputError(
            f"allocation={spread!r}; expected one of {', '.join(map(repr, get_args(Spread)))}."
        )
    if spread != "priced":
        if most is None or share is not None:
            raise InputError(
                f"allocation={spread!r} spends a budget of params alone; for information= use "
                "allocation='priced'."
            )
        whole = sum(choice.whole for choice in choices.values())
        part = min(1.0, most / max(whole, 1))
        if spread == "rows":
            return {n: np.floor(part * c.kept[:, 0] + 1e-9).astype(np.int64)
                    for n, c in choices.items()}  # fmt: skip
        return {n: _priced({n: c}, {}, part * c.whole)[n] for n, c in choices.items()}
    highest = {} if share is None else {n: _highest_price(c, share) for n, c in choices.items()}
    return _priced(choices, highest, most)


def _highest_price(choice: Choice, share: float | int) -> float:
    """The highest price at which a layer loses no more than it may."""
    allowed = (1 - share) * choice.total * (1 + 1e-9)
    low, high = 0.0, _ceiling({"": choice})
    for _ in range(80):
        middle = _between(low, high)
        lost = choice.sums(choice.at(middle))[1]
        low, high = (middle, high) if lost <= allowed else (low, middle)
    return low


def _priced(
    choices: Mapping[str, Choice], highest: Mapping[str, float], most: float | int | None
) -> dict[str, IntArray]:
    def at(price: float | int) -> dict[str, IntArray]:
        return {n: c.at(min(price, highest.get(n, price))) for n, c in choices.items()}

    def left(places: Mapping[str, IntArray]) -> int:
        return sum(c.sums(places[n])[0] for n, c in choices.items())

    ceiling = _ceiling(choices)
    if most is None:
        return _kept(choices, at(ceiling))
    if left(at(ceiling)) > most:
        raise BudgetError(
            f"The budget leaves {int(most):,} weights, and the share of information needs "
            f"{left(at(ceiling)):,}. Ask for more weights, or for less information."
        )
    low, high = 0.0, ceiling
    if left(at(low)) > most:
        for _ in range(100):
            middle = _between(low, high)
            low, high = (low, middle) if left(at(middle)) <= most else (middle, high)
        more = _kept(choices, at(low))
    else:
        # there is room even for weights that cost nothing
        high, more = low, {n: c.kept[:, 0] for n, c in choices.items()}
    spare = int(most) - left(at(high))
    kept = _kept(choices, at(high))
    for name in choices:
        room = np.cumsum(more[name] - kept[name])
        given = np.diff(np.minimum(room, spare), prepend=0)
        kept[name] = kept[name] + given
        spare -= int(given.sum())
    return kept


def _kept(choices: Mapping[str, Choice], places: Mapping[str, IntArray]) -> dict[str, IntArray]:
    return {n: c.kept[np.arange(len(places[n])), places[n]] for n, c in choices.items()}


def _ceiling(choices: Mapping[str, Choice]) -> float:
    """A price at which nothing stays: no weight is worth more than all nats of its row."""
    return 1.0 + 2.0 * max(float(c.nats[:, -1].max()) for c in choices.values())


def _between(low: float, high: float) -> float:
    """Halfway, by factors once there is something above zero to go by."""
    return float(np.sqrt(low * high)) if low > 0 else high * 1e-3
