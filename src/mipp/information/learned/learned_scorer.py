"""The elimination over learned predictors: the common part of `Mlp` and `Masked`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.checks import check_fields
from mipp.errors import InputError
from mipp.information.views import Observations, View, check_noise, example_of
from mipp.records import FloatArray, IntArray

FOLDS = 5
"""Estimates of every information, as in the paper."""

MIN_EXAMPLES = 50
"""Ten in each of five folds, with the rest to fit to: below that a network learns nothing."""

_LEAST = {
    "epochs": 1, "patience": 1, "retrain_epochs": 0, "retrain_patience": 1, "batch_size": 1,
    "estimates": 2, "max_targets": 1,
}  # fmt: skip


def check_settings(config: Any) -> None:
    """Raises `InputError` for settings of a learned estimator that could not learn anything."""
    check_fields(config)
    kind = type(config).__name__
    for name, least in _LEAST.items():
        value = getattr(config, name, least)
        if value < least:
            raise InputError(f"{kind}({name}={value}); expected at least {least}.")
    if min(config.hidden, default=0) < 1:
        raise InputError(
            f"{kind}(hidden={config.hidden}); expected one or more widths of at least 1, such as "
            "(64, 64)."
        )
    for name, most in (
        ("learning_rate", math.inf), ("held_out", 0.9), ("share_per_round", 1.01)
    ):  # fmt: skip
        value = getattr(config, name, 0.5)
        if not 0 < value < most:
            raise InputError(f"{kind}({name}={value}); expected a number above 0 below {most:g}.")
    if not 0 <= getattr(config, "full_share", 0) <= 1:
        raise InputError(f"{kind}(full_share={config.full_share}); expected a share from 0 to 1.")
    check_noise(config.noise)


@runtime_checkable
class Side(Protocol):
    """One consumer's side of the elimination. Losses are in nats per example, one for each fold."""

    def nothing(self) -> FloatArray:
        """Loss of the best constant prediction, shape ``(folds,)``."""
        ...

    def everything(self) -> FloatArray:
        """Loss with all units, shape ``(folds,)``."""
        ...

    def left(self) -> FloatArray:
        """Loss with the units that are left, shape ``(folds,)``."""
        ...

    def without(self, units: Sequence[int]) -> FloatArray:
        """Loss with the units left except for one of ``units``, shape ``(len(units), folds)``."""
        ...

    def alone(self) -> FloatArray:
        """Loss with each unit alone, shape ``(n_units, folds)``."""
        ...

    def given(self, units: IntArray) -> FloatArray:
        """Loss with these units, whatever was removed, shape ``(folds,)``."""
        ...

    def remove(self, unit: int) -> None:
        """Removes the unit."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What was trained and takes long to train again."""
        ...

    def restore(self, state: Mapping[str, Tensor], removed: Sequence[int]) -> None:
        """Makes a fresh side what it was when `state` was taken, with these units removed."""
        ...


class LearnedScorer:
    """A `mipp.records.Scorer` that compares held-out losses.

    Args:
        sides: One for each consumer.
        n_units: Number of units of the group.
        share_per_round: As in `mipp.Gaussian`, for `remove_least`.
    """

    def __init__(self, sides: Sequence[Side], n_units: int, share_per_round: float) -> None:
        self.n_units = n_units
        self._sides = sides
        self._share = share_per_round
        self._left = np.ones(n_units, dtype=bool)

    def total(self) -> FloatArray:
        """Nats that all units together transfer, shape ``(n_consumers,)``."""
        return np.array([(side.nothing() - side.everything()).mean() for side in self._sides])

    def solo(self) -> FloatArray:
        """Nats that each unit transfers on its own, over all consumers, shape ``(n_units,)``.

        Features that are always given are included, and add the same to every unit.
        """
        out = np.zeros(self.n_units)
        for side in self._sides:
            out += (side.nothing() - side.alone()).mean(1)
        return out

    def scores(self) -> FloatArray:
        """Nats lost with each unit that is left, infinite for removed ones."""
        out = np.full(self.n_units, np.inf)
        units = np.flatnonzero(self._left)
        if len(units):
            out[units] = self._lost(units).mean(1).sum(1)
        return out

    def nats_of(self, unit: int) -> FloatArray:
        """Nats that would be lost with this unit now, per consumer, shape ``(n_consumers,)``."""
        self._check(unit)
        return self._lost(np.array([unit]))[0].mean(0)

    def estimates(self, unit: int) -> FloatArray:
        """Nats lost with this unit as each of five folds sees it, ``(5, n_consumers)``."""
        self._check(unit)
        return self._lost(np.array([unit]))[0]

    def remove(self, unit: int) -> FloatArray:
        """Removes one unit; nats lost per consumer, shape ``(n_consumers,)``."""
        nats = self.nats_of(unit)
        for side in self._sides:
            side.remove(unit)
        self._left[unit] = False
        return nats

    def remove_least(self, count: int) -> list[tuple[int, FloatArray]]:
        """Removes ``count`` units, least nats first; scores again after each round."""
        removed: list[tuple[int, FloatArray]] = []
        while len(removed) < count and self._left.any():
            room = max(1, int(self._share * self._left.sum()))
            n = min(room, count - len(removed), int(self._left.sum()))
            least = np.argsort(self.scores(), kind="stable")[:n]
            removed += [(int(unit), self.remove(int(unit))) for unit in least]
        return removed

    def transfers(self, units: IntArray) -> FloatArray:
        """Nats that these units transfer together, whatever was removed, ``(n_consumers,)``."""
        chosen = np.asarray(units)
        return np.array([(side.nothing() - side.given(chosen)).mean() for side in self._sides])

    def state(self) -> dict[str, Tensor]:
        """What the networks have learned, by name; empty before they learn."""
        return {
            f"{place}.{name}": tensor
            for place, side in enumerate(self._sides)
            for name, tensor in side.state().items()
        }

    def restore(self, state: Mapping[str, Tensor], removed: Sequence[int]) -> None:
        """Makes a fresh scorer what another one was when its `state` was taken.

        Args:
            state: Of the other one.
            removed: What it had removed by then, in order.
        """
        for place, side in enumerate(self._sides):
            own = f"{place}."
            mine = {n.removeprefix(own): t for n, t in state.items() if n.startswith(own)}
            side.restore(mine, removed)
        self._left[list(removed)] = False

    def _lost(self, units: IntArray) -> FloatArray:
        """Shape ``(len(units), folds, n_consumers)``."""
        some = units.tolist()
        return np.stack([side.without(some) - side.left() for side in self._sides], 2)

    def _check(self, unit: int) -> None:
        if not (0 <= unit < self.n_units and self._left[unit]):
            raise InputError(f"Unit {unit} is not among the {int(self._left.sum())} units left.")


@dataclass(frozen=True, eq=False)
class Rows:
    """A view as the networks see it.

    Attributes:
        inputs: Standardised features, shape ``(rows, d)``.
        unit: The unit that each feature belongs to, shape ``(d,)``.
        uses: As in `ConsumerView`.
    """

    inputs: Float[Tensor, "rows d"]
    unit: Int[Tensor, " d"]
    uses: float | int


def standardised(view: Observations) -> Rows:
    """Features with mean 0 and variance 1; those that do not vary are 0.

    A feature that varies less than a twentieth of the most varying one of its unit (the corner of a
    map that is nearly always zero) is not amplified further than that one twentieth.
    """
    x = view.inputs.double()
    mean, square = x.mean(0), x.square().mean(0).sqrt()
    x = x - mean
    deviation = x.square().mean(0).sqrt()
    owner = view.unit.long() + 1
    most = torch.zeros(int(owner.max()) + 1, dtype=x.dtype, device=x.device)
    most = most.scatter_reduce(0, owner, deviation, "amax")[owner]
    scale = torch.where(owner > 0, torch.maximum(deviation, most / 20), deviation)
    # a smaller deviation is rounding
    varies = deviation > 1e-6 * square
    x = torch.where(varies, x / torch.where(varies, scale, 1.0), 0.0)
    return Rows(x.float(), view.unit.long(), view.uses)


def observed(view: View, name: str) -> Observations:
    """The view, checked to have rows, and enough of them.

    Raises:
        InputError: The view has second moments only, or fewer than 50 examples.
    """
    if not isinstance(view, Observations):
        raise InputError(
            f"estimator={name!r} needs rows of observations, and was given second moments. Give it "
            "Observations, or use estimator='gaussian'."
        )
    n = int(torch.unique(example_of(view)).numel())
    if n < MIN_EXAMPLES:
        raise InputError(
            f"estimator={name!r} was given {n} examples; expected at least {MIN_EXAMPLES}, and "
            "thousands for nats that mean something. Give more samples."
        )
    return view


def parts(
    view: Observations, shares: Sequence[float], generator: torch.Generator
) -> list[Int[Tensor, " _"]]:
    """Row numbers in parts of these shares of the examples, at random; no example is split."""
    _, which = torch.unique(example_of(view), return_inverse=True)
    n = int(which.max()) + 1
    place = torch.empty(n, dtype=torch.int64)
    place[torch.randperm(n, generator=generator)] = torch.arange(n)
    edges = (torch.tensor(list(shares), dtype=torch.float64).cumsum(0) * n).round().long()
    part = torch.bucketize(place, edges[:-1], right=True).to(which.device)[which]
    return [torch.where(part == k)[0] for k in range(len(shares))]


def draws(seed: int, *key: int) -> torch.Generator:
    """A separate generator for every seed and key."""
    state = np.random.SeedSequence([seed, *key]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)
