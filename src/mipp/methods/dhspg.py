"""DHSPG, the optimizer of the second Only Train Once: pulls units to zero and projects them.

Chen et al. 2023, "OTOv2: automatic, generic, user-friendly" (ICLR, arXiv 2303.06862), as in the
authors' code (github.com/tianyic/only_train_once, branch otov2_legacy_backup, commit ad35adc).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mipp.errors import InputError
from mipp.methods.method import Question, Spend, Trained, Training, TrainingMethod
from mipp.methods.oto import GUARD, along, products
from mipp.methods.shared.training import Trainer, n_batches
from mipp.methods.shared.zero_groups import ZeroGroups
from mipp.records import BoolArray


@dataclass(frozen=True, kw_only=True)
class DHSPG(TrainingMethod):
    """One training by the recipe; from ``start`` on redundant units are penalised and projected.

    x is the vector of a unit (see `ZeroGroups`), d the direction of SGD, lr its rate. After the
    share ``start`` of all steps units are ranked once, over all groups, by the cosine of x and d
    plus 1 / (norm of x over its number of entries), each divided by its norm over all units. The
    highest are penalised: those that the budget removes and the share ``tolerance`` of all units
    more (of groups that lose any, and each keeps one that is not penalised). In each further step a
    penalised unit goes to x' = x - lr d - lr c x / norm(x), where c is ``penalty``; where d points
    away from zero, <x, d> < 0, it is ``amplify`` times the least that reverses this, between
    ``penalty`` and ``most`` times that, or the mean of least and largest useful where it exceeds
    the latter. If then <x', x> < ``epsilon`` <x, x>, the unit is set to zero and stays zero. Once
    the budget is met the rest trains on without penalty.

    Two things are ours: of the units that a step would project, only as many are as the budget
    still removes, the nearest to zero first; and those that it still removes when training is over
    are cut, by norm of x (``cut_at_end`` in the notes of the plan's record).

    The defaults of ``start`` and ``epsilon`` are from the authors' ResNet18 tutorial (epoch 50 of
    300, 0.95; their code has 0 for ``epsilon``, a weak test), the others from their code for SGD.
    They are for a run of 300 epochs: in a short one few units reach zero unless ``penalty`` is
    higher.

    Attributes:
        start: Share of all steps before units are ranked, below 1.
        tolerance: Share of all units penalised in excess of the budget.
        penalty: The pull c.
        amplify: Factor of the least pull that turns a unit towards zero.
        most: Largest pull, in multiples of ``penalty``.
        epsilon: Threshold of the projection, below 1.
    """

    name = "dhspg"
    summary = "trains once while half-space projections zero units (OTO v2)"
    source = "Chen et al. 2023, arXiv 2303.06862"
    needs = "training"
    at_init = True
    ranking = "global"

    start: float | int = 1 / 6
    tolerance: float | int = 0.05
    penalty: float | int = 1e-3
    amplify: float | int = 2.0
    most: float | int = 10.0
    epsilon: float | int = 0.95

    def __post_init__(self) -> None:
        """Refuse several rounds, and numbers out of range."""
        super().__post_init__()
        if self.rounds != 1:
            raise InputError(f"DHSPG has rounds={self.rounds}; it ranks once, expected 1.")
        self._at_least(0, "start", "tolerance", "penalty", "amplify", "epsilon")
        self._at_least(1, "most")
        if not (self.start < 1 and self.epsilon < 1):
            raise InputError(
                f"DHSPG has start={self.start} and epsilon={self.epsilon}; expected numbers "
                "below 1."
            )

    def run(self, question: Question, training: Training, spend: Spend) -> Trained:
        """The one training."""
        steps = training.recipe.epochs * n_batches(training.batches)
        groups = ZeroGroups(question.graph, question.model)
        pulling = _Pulling(self, groups, spend, int(self.start * steps))
        trainer = Trainer(question, training, training.recipe.epochs)
        trainer.train(question.model, question.keep, training.recipe, pulling.step)
        norms = groups.sums([p.detach().square() for p in groups.parameters]).sqrt()
        left = dict(spend(groups.by_group(norms), pulling.keep, 1.0))
        cut = pulling.stays & ~groups.in_one_row(left)
        return Trained(question.model, left, trainer.cost, {"cut_at_end": int(cut.sum())})


class _Pulling:
    """The steps of one training, and which units are penalised and zero."""

    def __init__(self, method: DHSPG, groups: ZeroGroups, spend: Spend, first: int) -> None:
        self._method, self._groups, self._spend, self._first = method, groups, spend, first
        self.stays: Bool[Tensor, " units"] = torch.ones_like(groups.sizes, dtype=torch.bool)
        self._penalised: Bool[Tensor, " units"] | None = None
        self._met = False
        self._done = 0

    @property
    def keep(self) -> dict[int, BoolArray]:
        """Masks of the units that are not zero, by group index."""
        return self._groups.by_group(self.stays)

    def step(self, optimizer: torch.optim.SGD) -> None:
        """Plain SGD; then the pull and the projection. What is zero stays zero."""
        pulls = self._done >= self._first and not self._met
        self._done += 1
        before = self._groups.copies() if pulls else []
        optimizer.step()
        if before:
            d = along(self._groups, before, optimizer)
            self._pull(before, d, float(optimizer.param_groups[0]["lr"]))
        self._groups.multiply(self.stays.double())

    def _pull(self, x: list[Tensor], d: list[Tensor], rate: float) -> None:
        norm, slope, inner = products(self._groups, x, d)
        if self._penalised is None:
            self._penalised = self._redundant(norm, slope, inner)
        on = self._penalised & self.stays & (norm > 0)
        c = torch.where(on, penalties(self._method, norm, slope, inner), 0.0)
        self._groups.subtract(x, torch.where(on, rate * c / (norm + GUARD), 0.0))
        ahead = (norm.square() - rate * inner - rate * c * norm) / norm.square().clamp_min(1e-300)
        projected = on & (ahead < self._method.epsilon)
        if projected.any():
            self._project(projected, ahead)

    def _redundant(
        self,
        norm: Float[Tensor, " units"],
        slope: Float[Tensor, " units"],
        inner: Float[Tensor, " units"],
    ) -> Bool[Tensor, " units"]:
        """The partition, made once."""
        cosine = inner / (norm * slope).clamp_min(GUARD)
        small = 1 / (norm / self._groups.sizes + 1e-6)
        score = _normed(cosine) + _normed(small)
        left = dict(self._spend(self._groups.by_group(-score), self.keep, 1.0))
        more = int(self._method.tolerance * self._groups.n_units)
        # a group that loses none may be protected: none of it would ever be projected
        free = {g: int(units.sum()) - 1 for g, units in left.items() if not units.all()}
        group_of = self._groups.in_one_row({g: np.full(len(u), g) for g, u in left.items()})
        taken = ~self._groups.in_one_row(left)
        for unit in torch.argsort(score, descending=True, stable=True).tolist():
            group = int(group_of[unit])
            if more and not taken[unit] and free.get(group, 0) > 0:
                taken[unit] = True
                free[group] -= 1
                more -= 1
        return taken

    def _project(self, projected: Bool[Tensor, " units"], ahead: Float[Tensor, " units"]) -> None:
        """Projects as many of these as the budget still removes, the nearest to zero first."""
        rank = torch.argsort(torch.argsort(ahead)).double()
        # no budget removes another unit before one of these
        scores = self._groups.by_group(torch.where(projected, rank, 1e9))
        left = self._groups.in_one_row(dict(self._spend(scores, self.keep, 1.0)))
        gone = self.stays & ~left
        self._met = bool((projected | ~gone).all())
        self.stays = self.stays & ~(gone & projected)


def penalties(
    method: DHSPG,
    norm: Float[Tensor, " units"],
    slope: Float[Tensor, " units"],
    inner: Float[Tensor, " units"],
) -> Float[Tensor, " units"]:
    """The pull c on each unit, see `DHSPG`."""
    away = inner < 0
    least = torch.where(away, -inner / (norm + GUARD), 0.0)
    largest = torch.where(away, -slope.square() * norm / inner.clamp_max(-1e-300), torch.inf)
    c = (method.amplify * least).clamp(method.penalty, method.penalty * method.most)
    c = torch.where(c >= largest, (least + largest) / 2, c)
    return torch.where(away, c, method.penalty)


def _normed(values: Float[Tensor, " units"]) -> Float[Tensor, " units"]:
    return values / values.norm().clamp_min(1e-12)
