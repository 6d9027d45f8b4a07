"""One network trained on randomly masked units: testing a unit takes only a forward pass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mipp.information.learned.learned_scorer import (
    FOLDS,
    check_settings,
    draws,
    observed,
    parts,
    standardised,
)
from mipp.information.learned.likelihood import Goal, Measure
from mipp.information.learned.masked_scorer import MaskedScorer
from mipp.information.learned.networks import Networks, Training, train
from mipp.information.learned.start import linear_start
from mipp.information.views import Observations, Reads, RowShape, View
from mipp.records import FloatArray, IntArray

_CELLS = 2**23
"""Numbers in the largest array of a batch of units (32 MiB)."""

_STOP_MASKS = 4
"""Copies of each early-stopping row, each with other units masked."""

_EXCHANGES = 4
"""Ways to exchange the values of a unit between rows, whose losses are averaged."""

_REFRESH = 32
"""Removals after which sums are computed again, before rounding errors add up."""


@dataclass(frozen=True)
class Masked:
    """One network trained on randomly masked units; testing a unit takes a forward pass.

    What it estimates: the same as `mipp.Mlp`, in nats per example, with one network for all sets of
    units: its inputs are the features, 0 where masked, and which units are masked (Covert, Lundberg
    and Lee, NeurIPS 2020; Gadgil, Covert and Lee, "Estimating conditional mutual information for
    dynamic feature selection", ICLR 2024). In training each row has a share of its units masked,
    itself drawn evenly between 0 and 1. Losses are compared on a ``held_out`` share of the
    examples, in five folds for `estimates`; a tenth decides when to stop.

    Bias: as `mipp.Mlp`, but larger: one network must serve all sets, so it learns less about each
    than networks trained on that set alone, and a unit that others could replace costs more nats
    than it should. A network sees less of what each mask hides than of the whole, so masking costs
    nats even for a unit that tells nothing, and all folds agree on it: they share the network.
    `estimates` therefore takes the more doubtful of two comparisons, see `MaskedScorer`.

    Attributes:
        epochs: As in `mipp.Mlp`.
        patience: As in `mipp.Mlp`.
        batch_size: As in `mipp.Mlp`.
        hidden: As in `mipp.Mlp`.
        learning_rate: As in `mipp.Mlp`.
        full_share: Share of the training rows with no unit masked, where an elimination starts.
        held_out: Share of the examples that losses are compared on.
        estimates: Number of folds of the examples held out.
        share_per_round: Largest share of the units left that is removed between two scorings of
            all; losses of units closer than that are within the noise of the estimate.
        noise: As in `mipp.Mlp`.
        row_shape: As in `mipp.Mlp`.
        measure: As in `mipp.Mlp`.
        max_targets: As in `mipp.Mlp`.

    Examples:
        >>> Masked(epochs=10).hidden
        (128, 128)
    """

    name: ClassVar[str] = "masked"
    reads: ClassVar[Reads] = "rows"

    epochs: int = 100
    patience: int = 20
    batch_size: int = 256
    hidden: tuple[int, ...] = (128, 128)
    learning_rate: float = 3e-3
    full_share: float = 0.25
    held_out: float = 0.25
    estimates: int = FOLDS
    share_per_round: float = 0.05
    noise: float | int | str = "fisher"
    row_shape: RowShape = "maps"
    measure: Measure = "nats"
    max_targets: int = 128

    def __post_init__(self) -> None:
        check_settings(self)

    def scorer(self, views: Sequence[View], n_units: int, seed: int = 0) -> MaskedScorer:
        """A fresh elimination over ``n_units`` units, none removed yet.

        Raises:
            InputError: The views have no rows, or fewer than 50 examples.
        """
        sides = [
            OneNetwork(observed(view, self.name), n_units, self, seed, place)
            for place, view in enumerate(views)
        ]
        return MaskedScorer(sides, n_units, self.share_per_round)


class OneNetwork:
    """One consumer's side, a `mipp.information.learned.learned_scorer.Side`; see `Masked`.

    The inputs of the network are the features, 0 where masked, and for each unit 1 where it is
    masked. A unit's presence adds ``x_u A_u - a_u`` to the first layer, with the rows of the
    layer's weight for its features and for its mask; the rest of the layer's sum is cached.
    """

    def __init__(
        self, view: Observations, n_units: int, config: Masked, seed: int, place: int
    ) -> None:
        self._n_units, self._config, self._key = n_units, config, (seed, place)
        rows = standardised(view)
        self._inputs, self._unit, self._uses = rows.inputs, rows.unit, rows.uses
        fold = config.held_out / config.estimates
        stop_share = 0.1
        shares = [1 - config.held_out - stop_share, stop_share] + [fold] * config.estimates
        self._fit, self._stop, *tests = parts(view, shares, draws(*self._key, 0))
        self._tests, self._sizes = torch.cat(tests), [len(t) for t in tests]
        self._goal = Goal(
            view, config.measure, config.max_targets, len(self._tests), draws(*self._key, 1)
        )
        self._left_units = np.ones(n_units, dtype=bool)
        self._left_loss: FloatArray | None = None
        varies = torch.zeros(n_units + 1, dtype=torch.bool, device=self._unit.device)
        varies[self._unit[self._inputs.any(0)] + 1] = True
        # the mask of a unit that never varies here must not matter
        self._varies = varies[1:]

    def nothing(self) -> FloatArray:
        """Loss of the best constant prediction."""
        fits = [self._fit] * len(self._sizes)
        return self._nats(self._goal.nothing(fits, self._tests, self._sizes))

    def everything(self) -> FloatArray:
        """Loss with all units."""
        return self._whole

    def left(self) -> FloatArray:
        """Loss with the units that are left."""
        if not self._left_units.any() and not bool((self._unit < 0).any()):
            return self.nothing()
        if self._left_loss is None:
            self._left_loss = self._losses(self._sum)[0]
        return self._left_loss

    def without(self, units: Sequence[int]) -> FloatArray:
        """Loss with the units that are left but for one, ``(len(units), folds)``."""
        if self._left_units.sum() == 1 and not bool((self._unit < 0).any()):
            return self.nothing()[None]
        return self._each(units, self._sum, -1)

    def exchanged(self, unit: int) -> FloatArray:
        """Loss with the values of one unit exchanged between the rows of a fold, ``(folds,)``."""
        own = self._presence(unit)
        others = self._sum - own
        found = [self._losses(others + own[order])[0] for order in self._exchanges]
        return np.asarray(np.mean(found, 0))

    def alone(self) -> FloatArray:
        """Loss with each unit alone, and the features always given, ``(n_units, folds)``."""
        return self._each(range(self._n_units), self._sum_of(()), 1)

    def given(self, units: IntArray) -> FloatArray:
        """Loss with these units, whatever was removed, ``(folds,)``."""
        if len(units) == 0 and not bool((self._unit < 0).any()):
            return self.nothing()
        return self._losses(self._sum_of(units.tolist()))[0]

    def remove(self, unit: int) -> None:
        """Removes the unit."""
        self._sum = self._sum - self._presence(unit)
        self._left_units[unit] = False
        self._left_loss = None
        if self._left_units.sum() % _REFRESH == 0:
            self._sum = self._sum_of(np.flatnonzero(self._left_units).tolist())

    def state(self) -> dict[str, Tensor]:
        """The network, once it is trained."""
        if "_net" not in self.__dict__:
            return {}
        return {f"{n:03}": p.detach() for n, p in enumerate(self._net.parameters)}

    def restore(self, state: Mapping[str, Tensor], removed: Sequence[int]) -> None:
        """Makes a fresh side what it was when `state` was taken, with these units removed."""
        if state:
            self._net = Networks.of([t.to(self._unit.device) for _, t in sorted(state.items())])
        for unit in removed:
            self.remove(unit)

    @cached_property
    def _net(self) -> Networks:
        """The network, trained at first use."""
        config = self._config
        drawing = draws(*self._key, 2)
        generator = draws(*self._key, 3)
        nets = Networks.drawn(
            1, len(self._unit) + self._n_units, config.hidden, self._goal.n_outputs, generator,
            self._unit.device,
        )  # fmt: skip
        nets.first[:, len(self._unit) :][:, ~self._varies] = 0

        def read(rows: Tensor, _: Tensor) -> Tensor:
            return self._masked(rows, drawing)

        how = Training(config.epochs, config.patience, config.batch_size, config.learning_rate)
        # each early-stopping row has several masks, drawn once
        fit_rows, stop_rows = self._fit[None], self._stop.repeat(_STOP_MASKS)[None]
        judge = self._goal.fit_loss
        if not self._goal.is_class:
            nets = linear_start(nets, read, self._goal.values, fit_rows, stop_rows, judge)
        return train(nets, read, judge, fit_rows, stop_rows, how, generator)

    def _masked(self, rows: Tensor, generator: torch.Generator) -> Float[Tensor, "1 rows du"]:
        """The network's inputs for these rows, each with units masked at random.

        The share that is kept is itself drawn evenly between 0 and 1, so that all numbers of units
        occur equally often.
        """
        n = rows.shape[1]
        keep = torch.rand(n, 1, generator=generator)
        keep = torch.where(
            torch.rand(n, 1, generator=generator) < self._config.full_share, 1.0, keep
        )
        absent = torch.rand(n, self._n_units, generator=generator) >= keep
        absent = torch.nn.functional.pad(absent.to(rows.device) & self._varies, (1, 0))
        seen = self._inputs[rows[0]].masked_fill(absent[:, self._unit + 1], 0.0)
        return torch.cat([seen, absent[:, 1:].to(seen.dtype)], 1).unsqueeze(0)

    @cached_property
    def _exchanges(self) -> list[Tensor]:
        """Row orders: each fold is moved on by some rows, so that none stays in its place."""
        generator, orders = draws(*self._key, 4), []
        for _ in range(_EXCHANGES):
            start, order = 0, []
            for size in self._sizes:
                by = 1 + int(torch.randint(max(1, size - 1), (), generator=generator))
                order.append(start + torch.arange(size).roll(by))
                start += size
            orders.append(torch.cat(order).to(self._tests.device))
        return orders

    @cached_property
    def _test_inputs(self) -> Tensor:
        return self._inputs[self._tests]

    @cached_property
    def _columns_of(self) -> list[Tensor]:
        """Features of each unit; those always given come last."""
        return [torch.where(self._unit == u)[0] for u in [*range(self._n_units), -1]]

    def _presence(self, unit: int) -> Float[Tensor, "rows hm"]:
        """The change of the first layer with this unit in place of its mask."""
        columns, first = self._columns_of[unit], self._net.first[0]
        masked = first[len(self._unit) + unit] if unit >= 0 else 0.0
        return self._test_inputs[:, columns] @ first[columns] - masked

    def _sum_of(self, units: Sequence[int]) -> Float[Tensor, "rows hm"]:
        """The first layer with these units, and the features always given."""
        first = self._net.first[0]
        d = len(self._unit)
        there = torch.zeros(self._n_units + 1, dtype=torch.bool, device=first.device)
        there[0] = True
        there[torch.as_tensor(list(units), dtype=torch.long, device=first.device) + 1] = True
        columns = torch.where(there[self._unit + 1])[0]
        base = self._net.biases[0][0] + first[d:][~there[1:]].sum(0)
        return base + self._test_inputs[:, columns] @ first[columns]

    @cached_property
    def _sum(self) -> Tensor:
        return self._sum_of(range(self._n_units))

    @cached_property
    def _whole(self) -> FloatArray:
        return self._losses(self._sum_of(range(self._n_units)))[0]

    def _each(self, units: Sequence[int], base: Tensor, sign: int) -> FloatArray:
        chunk = max(1, _CELLS // base.numel())
        out = []
        for start in range(0, len(units), chunk):
            some = [base + sign * self._presence(u) for u in units[start : start + chunk]]
            out.append(self._losses(torch.stack(some)))
        return np.concatenate(out)

    def _losses(self, z: Tensor) -> FloatArray:
        """Held-out losses from first layers (rows, hm) or (some, rows, hm), ``(some, folds)``."""
        some, n = z.numel() // (z.shape[-1] * z.shape[-2]), z.shape[-2]
        outputs = self._net.finish(z.reshape(1, some * n, -1)).view(some, n, -1)
        return self._nats(self._goal.losses(outputs, self._tests, self._sizes))

    def _nats(self, losses: Tensor) -> FloatArray:
        return (losses.double() * self._uses).cpu().numpy()
