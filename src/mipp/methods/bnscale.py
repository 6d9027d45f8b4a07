"""BN scale: the factor by which a BatchNorm multiplies a channel.

Liu et al. 2017, "Learning efficient convolutional networks through network slimming" (arXiv
1708.06519).
"""

from dataclasses import dataclass

import numpy as np

from mipp.errors import InputError
from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.records import AxisKey
from mipp.surgery.attributes import BATCH_NORMS


@dataclass(frozen=True, kw_only=True)
class BNScale(ScoringMethod):
    """|gamma| of the BatchNorms on a unit, one threshold for the whole net.

    A unit that several BatchNorms scale (of a tied group, or of several channels) gets the mean of
    their factors, since all are compared with one threshold. Groups without a BatchNorm have no
    score and keep all their units. The paper first trains with a penalty on the factors, which is
    left to the caller's training. Without it the factors of a trained net mean little, and those of
    a fresh one nothing: nets without any BatchNorm, or with equal factors throughout, are refused.
    """

    name = "bnscale"
    summary = "scale of the BatchNorm on the unit"
    source = "Liu et al. 2017, arXiv 1708.06519"
    needs = "nothing"
    at_init = False
    ranking = "global"
    reads_only = True

    def score(self, question: Question) -> Scores:
        """The mean of the factors on each unit; groups without any are left out."""
        factors = {
            f"{name}.weight" if name else "weight": module.weight.detach().double().abs()
            for name, module in question.model.named_modules()
            if isinstance(module, BATCH_NORMS) and module.affine
        }
        scores = {}
        for group in question.graph.groups:
            total, count = np.zeros(group.n_units), np.zeros(group.n_units)
            for name, values in factors.items():
                axis = question.graph.axes.get(AxisKey(name, 0))
                if axis is None:
                    continue
                mine = axis.group == group.index
                np.add.at(total, axis.unit[mine], values.cpu().numpy()[mine])
                np.add.at(count, axis.unit[mine], 1.0)
            if (count > 0).all():
                scores[group.index] = total / count
        # units that are left in later rounds may well be equal
        if not scores or (question.round == 1 and np.ptp(np.concatenate([*scores.values()])) == 0):
            reason = (
                "all factors of its BatchNorms are the same: train it first, with a penalty on "
                "them, or use another method"
                if scores
                else "it has no BatchNorm with factors on units that can be pruned: use another "
                "method"
            )
            raise InputError(f"method='bnscale' cannot rank the units of this net: {reason}.")
        return scores
