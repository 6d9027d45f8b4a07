"""What all units of a group transfer to one consumer, each alone, or some of them together."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mipp.information.estimator import ConsumerView
from mipp.information.gaussian.downdate import unit_columns
from mipp.information.gaussian.standardised import Space, logdet_eye_plus, standardised


@dataclass(frozen=True, eq=False)
class Whole:
    """One consumer of the full group; ``noise`` and ``ridge`` as in `mipp.Gaussian`.

    Its matrices are made anew by each method, since they are as large as the elimination's own.
    """

    view: ConsumerView
    n_units: int
    noise: float | str
    ridge: float

    def standardised(self) -> tuple[Space, Float[Tensor, "r d"]]:
        """Correlations of the inputs, and the weight in units of the noise."""
        return standardised(self.view, self.noise, self.ridge)

    def solo(self) -> Float[Tensor, " units"]:
        """Nats that each unit transfers on its own."""
        space, weight = self.standardised()
        columns = unit_columns(self.view.unit, self.n_units)
        explained = space.times(weight)
        noisy = explained @ weight.T
        noisy.diagonal().add_(1)
        solved = torch.linalg.solve(noisy, explained)
        pad, real = columns < 0, columns.clamp_min(0)
        before = space.blocks(real)
        gain = torch.einsum("rui,ruj->uij", explained[:, real], solved[:, real])
        hole = pad.unsqueeze(2) | pad.unsqueeze(1)
        eye = torch.eye(columns.shape[1], dtype=before.dtype, device=before.device)
        after = torch.where(hole, eye, before - gain)
        before = torch.where(hole, eye, before)
        nats = 0.5 * self.view.uses * (torch.logdet(before) - torch.logdet(after))
        return nats.clamp_min(0)

    def transfers(self, units: Int[Tensor, " u"]) -> float:
        """Nats that the units ``units`` transfer together, others as given."""
        space, weight = self.standardised()
        owner = self.view.unit
        given = torch.isin(owner, units) | (owner < 0)
        left = logdet_eye_plus(space.unexplained(weight, given))
        return max(0.0, total(space, weight, self.view.uses) - 0.5 * self.view.uses * left)


def total(space: Space, weight: Float[Tensor, "r d"], uses: float | int) -> float:
    """Nats that all features transfer."""
    return 0.5 * uses * logdet_eye_plus(space.times(weight) @ weight.T)
