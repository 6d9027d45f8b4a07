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
from mipp.methods.shared.aggregate import Normalisation, normalised
from mipp.methods.shared.input_moments import Reader, with_variances
from mipp.methods.shared.samples import ExampleMethod


@dataclass(frozen=True, kw_only=True)
class FLAP(ExampleMethod, ScoringMethod):
    """Variance of the next layers' inputs from the unit, times their squared weights for it.

    Scores of several layers that read the unit are summed. The authors move the means of removed
    units into biases; ``refit="own"`` of `mipp.plan` does only that.

    Attributes:
        metric: ``"wifv"``, that product summed over the unit's features (the squared error of the
            next layer when the unit is replaced by its mean, were it independent of the others);
            ``"ifv"``, the variance alone; ``"wifn"``, mean over the outputs of |W| times the root
            of the second moment, which is Wanda's score made structured.
        normalise: ``"z-score"``, the authors' way to compare layers.
        examples: 2048, the authors' number of sequences.
    """

    name = "flap"
    summary = "fluctuation of the next layers' inputs, weighted"
    source = "An et al. 2024, arXiv 2312.11983"
    needs = "data"
    at_init = True
    ranking = "global"
    reads_only = True
    update = surgery.Refit(fits="bias")

    metric: Literal["wifv", "ifv", "wifn"] = "wifv"
    normalise: Normalisation = "z-score"
    examples: int | None = 2048

    def score(self, question: Question) -> Scores:
        """The metric of each unit, on the scale of its group."""
        scores = {}
        for group, readers in with_variances(question, self.drawn(question)):
            scores[group.index] = values = np.zeros(group.n_units)
            for reader in readers:
                np.add.at(values, reader.unit.cpu().numpy(), self._of(reader).cpu().numpy())
        return normalised(scores, question.keep, self.normalise)

    def _of(self, reader: Reader) -> Tensor:
        """The metric of each feature, shape ``(d,)``."""
        variance = reader.variance
        if self.metric == "ifv":
            return variance
        if self.metric == "wifv":
            return variance * reader.weight.square().sum(0)
        norm = torch.sqrt(variance + reader.mean.square())
        return reader.weight.abs().mean(0) * norm
