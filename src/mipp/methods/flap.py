"""FLAP: a unit that hardly fluctuates can be replaced by its mean.

An et al. 2024, "Fluctuation-based adaptive structured pruning for large language models" (arXiv
2312.11983).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mipp import surgery
from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.methods.shared.input_moments import Reader, measured, readers
from mipp.methods.shared.normalise import Normalisation, normalised
from mipp.methods.shared.samples import drawn


@dataclass(frozen=True, kw_only=True)
class FLAP(ScoringMethod):
    """Variance of what the next layers take in of the unit, times their squared weights for it.

    ``metric``: ``"wifv"``, that product summed over the unit's features (the squared error of the
    next layer when the unit is replaced by its mean, were it independent of the others);
    ``"ifv"``, the variance alone; ``"wifn"``, mean over the outputs of |W| times the root of the
    second moment, which is Wanda's score made structured. Several layers that read the unit: their
    sum. ``normalise``: ``"z-score"``, the authors' way to compare layers. ``examples``: 2048 drawn,
    the authors' number of sequences; None for all.

    The authors move the means of what was removed into biases; ``refit="own"`` of `mipp.plan` does
    that alone.
    """

    name = "flap"
    summary = "fluctuation of the next layers' inputs, weighted"
    source = "An et al. 2024, arXiv 2312.11983"
    needs = "data"
    at_init = True
    ranking = "global"
    update = surgery.Refit(fits="bias")

    metric: Literal["wifv", "ifv", "wifn"] = "wifv"
    normalise: Normalisation = "z-score"
    examples: int | None = 2048
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Refuse to look at nothing."""
        super().__post_init__()
        self._at_least(1, "examples", "batch_size")

    def score(self, question: Question) -> Scores:
        """The metric of each unit, on the scale of its group."""
        statistics = measured(question, drawn(question, self.examples, self.batch_size))
        scores = {}
        for group in question.graph.groups:
            values = np.zeros(group.n_units)
            for reader in readers(question, group, statistics):
                np.add.at(values, reader.unit.cpu().numpy(), self._of(reader).cpu().numpy())
            scores[group.index] = values
        return normalised(scores, question.keep, self.normalise)

    def _of(self, reader: Reader) -> Tensor:
        """The metric of each feature, shape ``(d,)``."""
        variance = reader.covariance.diagonal()
        if self.metric == "ifv":
            return variance
        if self.metric == "wifv":
            return variance * reader.weight.square().sum(0)
        norm = torch.sqrt(variance + reader.mean.square())
        return reader.weight.abs().mean(0) * norm
