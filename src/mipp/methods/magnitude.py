"""Norms of the weights that make a unit (Li et al. 2017, arXiv 1608.08710)."""

from dataclasses import dataclass

from torch import Tensor

from mipp.methods.method import Question, Scores, WeightMethod
from mipp.methods.shared.aggregate import Aggregation, Normalisation, normalised


@dataclass(frozen=True, kw_only=True)
class L1(WeightMethod):
    """L1 norm of the incoming weights; removes the smallest: the paper's filter pruning.

    Its defaults are the paper's: norms are compared within a layer, one round. The score of a
    single weight is its absolute value.

    Attributes:
        normalise: ``"mean"`` divides by the mean of the group, which makes ``allocation="global"``
            compare layers of different width and scale. Without it (``"none"``) norms grow with the
            fan-in.
    """

    name = "l1"
    summary = "L1 norm of the incoming weights"
    source = "Li et al. 2017, arXiv 1608.08710"
    needs = "nothing"
    at_init = True
    ranking = "local"
    reads_only = True

    normalise: Normalisation = "none"

    def terms(self, question: Question) -> dict[str, Tensor]:
        """The weights themselves."""
        return {name: p.detach() for name, p in question.parameters().items()}

    def score(self, question: Question) -> Scores:
        """The norm of each unit, normalised by group."""
        return normalised(super().score(question), question.keep, self.normalise)


@dataclass(frozen=True, kw_only=True)
class L2(L1):
    """L2 norm of the incoming weights, otherwise as `L1`."""

    name = "l2"
    summary = "L2 norm of the incoming weights"

    aggregation: Aggregation = "l2"
