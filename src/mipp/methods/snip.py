"""SNIP: first-order change of the loss when a weight is removed, on the net as it is.

Lee, Ajanthan and Torr 2019, "SNIP: single-shot network pruning based on connection sensitivity"
(arXiv 1810.02340); round by round: de Jorge et al. 2021, "Progressive skeletonization" (arXiv
2006.09081), and Verdenius et al. 2020, "Pruning via iterative ranking of sensitivity statistics"
(arXiv 2006.00896).
"""

from dataclasses import dataclass

from torch import Tensor

from mipp.methods.method import Question, WeightMethod
from mipp.methods.shared.gradients import Norms, gradient, set_norms
from mipp.methods.shared.samples import ExampleMethod


@dataclass(frozen=True, kw_only=True)
class SNIP(ExampleMethod, WeightMethod):
    """|w dL/dw|, which is |dL/dc| for a mask c = 1 on the weight; removes the smallest at once.

    The gradient is that of the mean loss over all drawn examples; the absolute value comes last.

    Attributes:
        examples: 128, the paper's batch for CIFAR-10 (code of de Jorge et al.: 1280 for CIFAR-100).
        batch_size: Of the batches whose statistics norms use.
        norms: ``"train"`` as in both papers' code. With it the ``signed`` and ``sum`` aggregations
            are exactly zero for a layer in front of a BatchNorm.
    """

    name = "snip"
    summary = "first-order change of the loss without the weight"
    source = "Lee et al. 2019, arXiv 1810.02340"
    needs = "labels"
    at_init = True
    ranking = "global"

    batch_size: int | None = 128
    norms: Norms = "train"

    def terms(self, question: Question) -> dict[str, Tensor]:
        """The products w dL/dw for every entry of every parameter."""
        batches = self.drawn(question)
        set_norms(question.model, self.norms, batches)
        named, slopes = question.parameters(), gradient(question, batches)
        return {name: p.detach() * slopes[name] for name, p in named.items()}


@dataclass(frozen=True, kw_only=True)
class IterSNIP(SNIP):
    """`SNIP` in rounds, each on what the one before has left and on newly drawn examples.

    Attributes:
        rounds: 60, from the README of de Jorge et al.'s code (its SNIP-it; their own FORCE, in
            which weights may come back, is another method).
    """

    name = "itersnip"
    summary = "SNIP, scored again in each of 60 rounds"
    source = "de Jorge et al. 2021, arXiv 2006.09081 (Iterative SNIP)"

    rounds: int = 60
