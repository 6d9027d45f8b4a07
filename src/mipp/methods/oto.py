"""Only Train Once: one training run during which units are driven to zero.

HESSO, the optimizer of the authors' repository today (github.com/tianyic/only_train_once, commit
5d0963d; Chen et al. 2021, arXiv 2107.07467, and 2023, arXiv 2303.06862, name the series).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mipp.errors import InputError
from mipp.methods.method import Question, Spend, Trained, Training, TrainingMethod
from mipp.methods.shared.training import Trainer, n_batches
from mipp.methods.shared.zero_groups import ZeroGroups

GUARD = 1e-8
"""Added where the authors divide by norms."""

Number = float | int
Weights = tuple[Number, Number, Number, Number, Number]


@dataclass(frozen=True, kw_only=True)
class OTO(TrainingMethod):
    """One training by the recipe; in ``rounds`` periods early in it, units are faded out.

    At the start of each period all units are ranked, over all groups, by their vectors x of
    weights, bias and norm parameters (see `ZeroGroups`) and the direction d of SGD (gradient with
    weight decay and momentum): the weighted sum of norm of x, norm of x over its number of
    entries, cosine of x and d plus 1, abs(<x, d>) and <x, d>^2 / 2, each divided by its norm over
    all units. The lowest are multiplied, after each step, by (n - 1) / n, (n - 2) / (n - 1), ... 0
    over the n steps of the period, and stay zero to the end of training. As in the source every
    period removes about the same number of units; how many, and how many each layer keeps at least,
    follows from the budget.

    Attributes:
        rounds: Number of periods.
        start: Where the first period begins, as a share of all steps. A tenth, with 10 periods that
            take another tenth, in the authors' tutorial for ResNet18 (they advise to finish after a
            quarter).
        pruning: Length of all periods, as a share of all steps.
        weights: Of the five terms of the sum; 0.2 each in the authors' code.
    """

    name = "oto"
    summary = "trains once while units fade to zero (HESSO)"
    source = "Chen et al. 2021, arXiv 2107.07467; 2023, arXiv 2303.06862"
    needs = "training"
    at_init = True
    ranking = "global"

    rounds: int = 10
    start: float | int = 0.1
    pruning: float | int = 0.1
    weights: Weights = (0.2, 0.2, 0.2, 0.2, 0.2)

    def __post_init__(self) -> None:
        """Refuse periods that do not lie within the training."""
        super().__post_init__()
        if not (self.start >= 0 and self.pruning >= 0 and self.start + self.pruning <= 1):
            raise InputError(
                f"OTO has start={self.start} and pruning={self.pruning}; expected shares of the "
                "training of which the sum is at most 1."
            )

    def run(self, question: Question, training: Training, spend: Spend) -> Trained:
        """The one training."""
        steps = training.recipe.epochs * n_batches(training.batches)
        # every period has at least one step, and ends with the training at the latest
        length = max(1, int(self.pruning * steps) // self.rounds)
        first = min(int(self.start * steps), steps - length * self.rounds)
        if first < 0:
            raise InputError(
                f"OTO prunes in rounds={self.rounds} periods of one step at least, and the "
                f"training has {steps} steps. Train longer, or with fewer rounds."
            )
        fading = _Fading(self, ZeroGroups(question.graph, question.model), spend, first, length)
        trainer = Trainer(question, training, training.recipe.epochs)
        trainer.train(question.model, question.keep, training.recipe, fading.step)
        return Trained(question.model, fading.groups.by_group(fading.stays), trainer.cost)


class _Fading:
    """The steps of one training, and the current period."""

    def __init__(
        self, method: OTO, groups: ZeroGroups, spend: Spend, first: int, length: int
    ) -> None:
        self.groups = groups
        self.stays: Bool[Tensor, " units"] = torch.ones_like(groups.sizes, dtype=torch.bool)
        self._fades = torch.zeros_like(self.stays)
        self._method, self._spend = method, spend
        self._first, self._length = first, length
        self._done = 0

    def step(self, optimizer: torch.optim.SGD) -> None:
        """Plain SGD, and then the factors of units that fade or are removed."""
        period, place = divmod(self._done - self._first, self._length)
        self._done += 1
        inside = 0 <= period < self._method.rounds
        before = self.groups.copies() if inside and place == 0 else []
        optimizer.step()
        if before:
            self._choose(period + 1, before, along(self.groups, before, optimizer))
        factors = self.stays.double()
        if inside:
            factors[self._fades] = (self._length - 1 - place) / (self._length - place)
            if place == self._length - 1:
                self._fades = torch.zeros_like(self._fades)
        self.groups.multiply(factors)

    def _choose(self, number: int, x: list[Tensor], d: list[Tensor]) -> None:
        scores = self.groups.by_group(importance(self.groups, x, d, self._method.weights))
        keep = self.groups.by_group(self.stays)
        whole, now = self.groups.n_units, int(self.stays.sum())
        final = sum(int(units.sum()) for units in self._spend(scores, keep, 1.0).values())
        share = float(number / self._method.rounds)
        if 0 < final < now and share < 1:
            # a budget is approached in equal factors, the authors' periods remove equal numbers
            wanted = whole - (whole - final) * share
            share = math.log(wanted / whole) / math.log(final / whole)
        left = self.groups.in_one_row(dict(self._spend(scores, keep, share)))
        self._fades = self.stays & ~left
        self.stays = left


def along(groups: ZeroGroups, before: list[Tensor], optimizer: torch.optim.SGD) -> list[Tensor]:
    """The direction of the last SGD step for each parameter of the groups: step over rate."""
    rate = float(optimizer.param_groups[0]["lr"])
    return [(x - p.detach()) / rate for x, p in zip(before, groups.parameters, strict=True)]


def importance(
    groups: ZeroGroups, x: list[Tensor], d: list[Tensor], weights: Weights
) -> Float[Tensor, " units"]:
    """HESSO's score of each unit, see `OTO`; the lowest are redundant."""
    norm, slope, inner = products(groups, x, d)
    parts = (
        norm,
        norm / groups.sizes,
        inner / (norm + GUARD) / (slope + GUARD) + 1,
        inner.abs(),
        inner.square() / 2,
    )
    total = torch.zeros_like(norm)
    for weight, part in zip(weights, parts, strict=True):
        total += weight * part / ((part.square().sum() + GUARD).sqrt() + GUARD)
    return total


def products(
    groups: ZeroGroups, x: list[Tensor], d: list[Tensor]
) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"], Float[Tensor, " units"]]:
    """Per unit the norms of x and of d, and their inner product."""
    norm = groups.sums([a.square() for a in x]).sqrt()
    slope = groups.sums([b.square() for b in d]).sqrt()
    inner = groups.sums([a * b for a, b in zip(x, d, strict=True)])
    return norm, slope, inner
