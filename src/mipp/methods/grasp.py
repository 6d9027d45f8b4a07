"""GraSP: the weights that the gradient flow of the net, the norm of its gradient, depends on.

Wang, Zhang and Grosse 2020, "Picking winning tickets before training by preserving gradient flow"
(arXiv 2002.07376); round by round in the code of de Jorge et al. 2021 (arXiv 2006.09081).
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mipp.methods.method import Question, WeightMethod
from mipp.methods.shared.gradients import (
    Norms,
    gradient,
    hessian_product,
    layer_weights,
    set_norms,
)
from mipp.methods.shared.samples import drawn
from mipp.statistics import Batch


@dataclass(frozen=True, kw_only=True)
class GraSP(WeightMethod):
    """w (H g)_w, with g the gradient of the loss and H its Hessian; the smallest go.

    g is the gradient by the weights of layers alone, as in the authors' code: biases and norm
    parameters are not removed, and their gradients are no part of the flow that is to be kept.

    Removing a weight changes g'g by about -2 w (H g)_w, so the smallest (most negative) products
    are removed, and the norm of the gradient grows. Single weights are ranked with this sign. The
    aggregation decides how it counts in a unit: ``l1`` (MIPP's comparison) and ``signed`` keep
    units whose removal changes the flow much either way; ``sum`` is the paper's rule for the whole
    unit, but with ``norms="train"`` it is minus the squared gradient of a filter in front of a
    BatchNorm: use ``norms="eval"`` with it.

    Attributes:
        reading: ``"flow"`` as above, or ``"gradient"``: the squared gradient of the weight, of
            which the largest stay. De Jorge et al.'s code runs that as iterative GraSP.
        per_class: Examples of each class (the authors': 10 for CIFAR-10, 5 and 1 for more classes),
            put in two batches.
        examples: Number of examples where targets are no class numbers.
        temperature: Logits are divided by it before the cross-entropy, 200 in the authors' code.
            Other losses are used as they are.
        norms: ``"train"``, as in the authors' code.
    """

    name = "grasp"
    summary = "what the norm of the gradient rests on"
    source = "Wang et al. 2020, arXiv 2002.07376"
    needs = "labels"
    at_init = True
    ranking = "global"

    reading: Literal["flow", "gradient"] = "flow"
    per_class: int | None = 10
    examples: int | None = 128
    temperature: float | int = 200.0
    norms: Norms = "train"

    def __post_init__(self) -> None:
        """Refuse to look at nothing."""
        super().__post_init__()
        self._at_least(1, "per_class", "examples")
        self._at_least(1e-6, "temperature")

    def terms(self, question: Question) -> dict[str, Tensor]:
        """The products w (H g)_w, or the squared gradient, for every entry of every parameter."""
        batches = self._halves(question)
        set_norms(question.model, self.norms, batches)
        slopes = gradient(question, batches, self.temperature)
        if self.reading == "gradient":
            return {name: slope.square() for name, slope in slopes.items()}
        weights = layer_weights(question)
        flow = {name: slope for name, slope in slopes.items() if name in weights}
        products = hessian_product(question, batches, flow, self.temperature)
        return {name: p.detach() * products[name] for name, p in question.parameters().items()}

    def weight_scores(self, question: Question) -> dict[str, Tensor]:
        """The terms with their sign."""
        return self.terms(question)

    def _halves(self, question: Question) -> list[Batch]:
        whole, *others = drawn(question, self.examples, 2**62, self.per_class)
        if others or len(whole) < 4:
            return [whole, *others]
        return whole.parts(-(-len(whole) // 2))


@dataclass(frozen=True, kw_only=True)
class IterGraSP(GraSP):
    """`GraSP` in rounds, each on what the one before has left and on newly drawn examples.

    ``reading="gradient"`` is the score of de Jorge et al.'s code; the default is what the GraSP
    paper defines.

    Attributes:
        rounds: 60, from the README of de Jorge et al.'s code.
    """

    name = "itergrasp"
    summary = "GraSP, scored again in each of 60 rounds"
    source = "de Jorge et al. 2021, arXiv 2006.09081 (GraSP-it)"

    rounds: int = 60
