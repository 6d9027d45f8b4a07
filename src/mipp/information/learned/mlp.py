"""The estimator of the paper: networks that are trained again without each unit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from mipp.information.learned.learned_scorer import (
    FOLDS,
    LearnedScorer,
    check_settings,
    draws,
    observed,
    parts,
    standardised,
)
from mipp.information.learned.likelihood import Goal, Measure
from mipp.information.learned.networks import Networks, Training, train
from mipp.information.learned.start import linear_start, piecewise_start
from mipp.information.views import Observations, Reads, RowShape, View
from mipp.records import FloatArray, IntArray

_CELLS = 2**25
"""Numbers in the largest array of a batch of networks of one unit each (128 MiB)."""


@dataclass(frozen=True)
class Mlp:
    """Networks that predict each consumer, trained again without each unit: the paper's estimator.

    What it estimates: ``I(X; Y) ~ E[loss(f(nothing), Y)] - E[loss(f(X), Y)]`` in nats per example
    (Covert, Lundberg and Lee, NeurIPS 2020), with the losses of `learned.likelihood` on
    rows that no network was fitted to. To test a unit, its features are masked, the networks are
    retrained briefly from their current weights, and the losses compared; when the unit is
    removed, those weights become the current ones (Westphal, Hailes and Musolesi, arXiv
    2411.00147). There are five networks: each has its own initialisation, tests on its own fifth of
    the examples, stops early on a tenth and is fitted to the rest. `nats_of` is their mean,
    `estimates` has each of them. For real targets, networks of single units (`solo`) start from
    a least-squares fit of the last layer and are trained as briefly as retrained ones; their nats
    come out up to a fifth too small where a unit has many features, but serve to order the units.

    Bias: what a network fails to learn counts as no information, so with few rows nats come out
    too small (a difference may be off either way). For real targets the prediction errors are
    taken as Gaussian of one covariance; the nats are a lower bound only where the target itself is
    Gaussian. Sees any dependence of the targets' mean, XOR included; the reference, but slow.

    From the paper are 100 epochs and 5 estimates, and the 20 batches of 256 rows of one example
    each, which is `mipp.Options.samples`. The paper does not say the rest, which is our choice.

    Attributes:
        epochs: Most passes over the rows.
        patience: Epochs without a better loss before training ends.
        retrain_epochs: As ``epochs``, for the brief training without a unit.
        retrain_patience: As ``patience``, for the brief training without a unit.
        batch_size: Rows in a step.
        hidden: Widths of the layers of rectified linear units, beside which there is a linear path
            that starts from ridge regression.
        learning_rate: Of Adam.
        estimates: Number of networks.
        noise: As in `mipp.Gaussian`.
        row_shape: ``"maps"`` (an example is a row, and the features of a filter are its whole map)
            or ``"positions"`` (a patch is a row, and the features of a filter are its kernel cells;
            nats are multiplied by the number of positions).
        measure: Loss for real targets, see `likelihood.Measure`.
        max_targets: Most principal axes of real targets that are predicted, those of most variance
            in units of the noise. Nats in the others are not counted.

    Examples:
        >>> Mlp(hidden=(32,)).reads
        'rows'
    """

    name: ClassVar[str] = "mlp"
    reads: ClassVar[Reads] = "rows"

    epochs: int = 100
    patience: int = 5
    retrain_epochs: int = 10
    retrain_patience: int = 2
    batch_size: int = 256
    hidden: tuple[int, ...] = (64, 64)
    learning_rate: float = 1e-3
    estimates: int = FOLDS
    noise: float | int | str = "fisher"
    row_shape: RowShape = "maps"
    measure: Measure = "nats"
    max_targets: int = 128

    def __post_init__(self) -> None:
        check_settings(self)

    def scorer(self, views: Sequence[View], n_units: int, seed: int = 0) -> LearnedScorer:
        """A fresh elimination over ``n_units`` units, none removed yet.

        Raises:
            InputError: The views have no rows, or fewer than 50 examples.
        """
        with torch.inference_mode(False), torch.no_grad():
            sides = [
                Retrained(observed(view, self.name), n_units, self, seed, place)
                for place, view in enumerate(views)
            ]
        return LearnedScorer(sides, n_units, share_per_round=0.0)


class Retrained:
    """One consumer's side, a `mipp.information.learned.learned_scorer.Side`; see `Mlp`."""

    def __init__(
        self, view: Observations, n_units: int, config: Mlp, seed: int, place: int
    ) -> None:
        self._n_units, self._config, self._key = n_units, config, (seed, place)
        rows = standardised(view)
        self._unit, self._uses = rows.unit, rows.uses
        # a last column of zeros fills up units with fewer features than others
        self._inputs = torch.nn.functional.pad(rows.inputs, (0, 1))
        n = 2 * config.estimates
        # a network tests on two parts of ten, and stops early on a third
        pieces = parts(view, [1 / n] * n, draws(*self._key, 0))
        tests, stops, fits = [], [], []
        for e in range(0, n, 2):
            tests.append(torch.cat(pieces[e : e + 2]))
            stops.append(pieces[(e + 2) % n])
            rest = [pieces[h] for h in range(n) if h not in (e, e + 1, (e + 2) % n)]
            fits.append(torch.cat(rest))
        self._tests, self._sizes = torch.cat(tests), [len(t) for t in tests]
        self._fit_rows, self._stop_rows = _even(fits), _even(stops)
        self._goal = Goal(
            view, config.measure, config.max_targets, len(self._tests), draws(*self._key, 1)
        )
        self._nothing = self._goal.nothing(fits, self._tests, self._sizes)
        self._columns = torch.arange(len(self._unit), device=self._unit.device)
        self._removed: list[int] = []
        self._tested: dict[int, FloatArray] = {}
        self._retrained: dict[int, Networks] = {}

    def nothing(self) -> FloatArray:
        """Loss of the best constant prediction."""
        return self._nats(self._nothing)

    def everything(self) -> FloatArray:
        """Loss with all units."""
        return self._whole[1]

    def left(self) -> FloatArray:
        """Loss with the units that are left."""
        return self._current[1]

    def without(self, units: Sequence[int]) -> FloatArray:
        """Loss with the units that are left but for one, after training again."""
        for unit in units:
            if unit not in self._tested:
                self._test(unit)
        return np.stack([self._tested[unit] for unit in units])

    def alone(self) -> FloatArray:
        """Loss of networks that see only one unit, and the features that are always given."""
        given = torch.where(self._unit < 0)[0]
        owned = [torch.where(self._unit == u)[0] for u in range(self._n_units)]
        width = max(len(columns) for columns in owned) + len(given)
        columns = torch.full((self._n_units, max(1, width)), self._inputs.shape[1] - 1)
        columns = columns.to(self._unit.device)
        for u, mine in enumerate(owned):
            columns[u, : len(mine) + len(given)] = torch.cat([mine, given])
        cells = self._fit_rows.numel() * (
            columns.shape[1] + self._config.hidden[-1] + self._goal.n_outputs
        )
        chunk = max(1, _CELLS // cells)
        losses = [
            self._fresh(part, 2, i, alone=True)[1] for i, part in enumerate(columns.split(chunk))
        ]
        return np.concatenate(losses)

    def given(self, units: IntArray) -> FloatArray:
        """Loss of networks that see only these units, and the features that are always given."""
        wanted = torch.as_tensor(units, device=self._unit.device)
        columns = torch.where(torch.isin(self._unit, wanted) | (self._unit < 0))[0]
        if len(columns) == 0:
            return self.nothing()
        return self._fresh(columns.unsqueeze(0), 3)[1][0]

    def remove(self, unit: int) -> None:
        """Removes the unit: the weights trained without it become the current ones."""
        loss = self.without([unit])[0]
        if unit not in self._retrained:
            self._test(unit)
        self._current = self._retrained[unit], loss
        self._columns = self._columns[self._unit[self._columns] != unit]
        self._removed.append(unit)
        self._tested, self._retrained = {}, {}

    def state(self) -> dict[str, Tensor]:
        """The current networks and their loss, once they are trained."""
        if "_current" not in self.__dict__:
            return {}
        nets, loss = self._current
        return {"loss": torch.as_tensor(loss)} | {
            f"{n:03}": p.detach() for n, p in enumerate(nets.parameters)
        }

    def restore(self, state: Mapping[str, Tensor], removed: Sequence[int]) -> None:
        """Makes a fresh side what it was when `state` was taken, with these units removed."""
        gone = torch.as_tensor(list(removed), device=self._unit.device)
        self._columns = self._columns[~torch.isin(self._unit[self._columns], gone)]
        self._removed = list(removed)
        if state:
            learned = [t.to(self._unit.device) for n, t in sorted(state.items()) if n != "loss"]
            self._current = Networks.of(learned), state["loss"].numpy()

    @cached_property
    def _whole(self) -> tuple[Networks, FloatArray]:
        nets, losses = self._fresh(self._columns.unsqueeze(0), 4)
        return nets, losses[0]

    @cached_property
    def _current(self) -> tuple[Networks, FloatArray]:
        return self._whole

    def _test(self, unit: int) -> None:
        """Trains again without the unit, and keeps the loss and perhaps the networks."""
        nets, loss = self._current
        stay = self._unit[self._columns] != unit
        columns = self._columns[stay]
        if bool(stay.all()):
            tested = nets, loss
        elif len(columns) == 0:
            tested = nets.columns(stay), self.nothing()
        else:
            how = self._training(self._config.retrain_epochs, self._config.retrain_patience)
            generator = draws(*self._key, 5, len(self._removed), unit)
            again = self._train(nets.columns(stay), columns.unsqueeze(0), how, generator)
            tested = again, self._loss(again, columns.unsqueeze(0))[0]
        self._tested[unit] = tested[1]
        # weights of all would not fit; the least informative unit is the one likely to be removed
        least = min(self._tested, key=lambda u: float(self._tested[u].mean()))
        kept = {u: nets for u, nets in self._retrained.items() if u == least}
        self._retrained = kept | {unit: tested[0]}

    def _training(self, epochs: int, patience: int) -> Training:
        config = self._config
        return Training(epochs, patience, config.batch_size, config.learning_rate)

    def _fresh(
        self, columns: Tensor, *key: int, alone: bool = False
    ) -> tuple[Networks, FloatArray]:
        """Networks from scratch, ``estimates`` for each row of features, and their losses.

        Those of units ``alone`` see few features, and start from a better fit than the linear one.
        Only their order counts, so they are then trained as briefly as those that are retrained.
        """
        generator = draws(*self._key, *key)
        n = len(columns) * self._config.estimates
        nets = Networks.drawn(
            n, columns.shape[1], self._config.hidden, self._goal.n_outputs, generator,
            columns.device,
        )  # fmt: skip
        config, start = self._config, None if self._goal.is_class else linear_start
        how = self._training(config.epochs, config.patience)
        if alone and not self._goal.is_class:
            start = partial(piecewise_start, generator=generator)
            how = self._training(config.retrain_epochs, config.retrain_patience)
        nets = self._train(nets, columns, how, generator, start)
        return nets, self._loss(nets, columns)

    def _train(
        self,
        nets: Networks,
        columns: Tensor,
        how: Training,
        generator: torch.Generator,
        start: Callable[..., Networks] | None = None,
    ) -> Networks:
        n_sets, estimates = len(columns), self._config.estimates
        fit_rows = self._fit_rows.repeat(n_sets, 1)
        stop_rows = self._stop_rows.repeat(n_sets, 1)
        if n_sets == 1:
            seen = self._inputs[:, columns[0]]

            def read(rows: Tensor, which: Tensor) -> Tensor:  # noqa: ARG001
                return seen[rows]
        else:
            own = columns.repeat_interleave(estimates, 0).unsqueeze(1)

            def read(rows: Tensor, which: Tensor) -> Tensor:
                return self._inputs[rows.unsqueeze(2), own[which]]

        judge = self._goal.fit_loss
        if start is not None:
            nets = start(nets, read, self._goal.values, fit_rows, stop_rows, judge)
        return train(nets, read, judge, fit_rows, stop_rows, how, generator)

    def _loss(self, nets: Networks, columns: Tensor) -> FloatArray:
        """Held-out losses, shape ``(len(columns), estimates)``."""
        estimates = self._config.estimates
        outputs = []
        for e, rows in enumerate(self._tests.split(self._sizes)):
            mine = nets.rebuilt([p[e::estimates] for p in nets.parameters])
            outputs.append(mine(self._inputs[rows][:, columns].transpose(0, 1)))
        return self._nats(self._goal.losses(torch.cat(outputs, 1), self._tests, self._sizes))

    def _nats(self, losses: Tensor) -> FloatArray:
        return (losses.double() * self._uses).cpu().numpy()


def _even(rows: Sequence[Tensor]) -> Tensor:
    """Equally many rows for each network, so that they can be batched."""
    n = min(len(r) for r in rows)
    return torch.stack([r[:n] for r in rows])
