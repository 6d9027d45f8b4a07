"""SOSP-H: second-order change of the loss without a structure, with the cross terms of all others.

Nonnenmacher et al. 2022, "SOSP: efficiently capturing global correlations by second-order
structured pruning" (arXiv 2110.11395).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mipp.methods.method import Question, Scores, WeightMethod
from mipp.methods.shared.aggregate import Aggregation, aggregate, unit_entries
from mipp.methods.shared.gradients import (
    Norms,
    gradient,
    hessian_product,
    prunable_weights,
    set_norms,
)
from mipp.methods.shared.samples import ExampleMethod


@dataclass(frozen=True, kw_only=True)
class SOSP(ExampleMethod, WeightMethod):
    """|theta_s' g| + 1/2 |theta_s' H theta|, theta_s the weights of the unit, theta those of all.

    One Hessian product serves all units: theta is the sum of all theta_s (protected groups too), so
    each score has the unit's correlations with all others.

    Attributes:
        aggregation: ``"signed"``, the paper's. ``"l1"`` sums absolute values of single weights
            instead, as MIPP's comparison describes it.
        own: Whether theta_s has the bias, norm parameters and depthwise filter, too.
        examples: 1000.
        batch_size: 128, on which norms in training mode depend.
        norms: With ``"train"`` signed scores of filters in front of a BatchNorm are exactly zero.
    """

    name = "sosp"
    summary = "second-order change of the loss, with all cross terms"
    source = "Nonnenmacher et al. 2022, arXiv 2110.11395 (SOSP-H)"
    needs = "labels"
    at_init = True
    ranking = "global"

    aggregation: Aggregation = "signed"
    examples: int | None = 1000
    batch_size: int | None = 128
    norms: Norms = "eval"

    def orders(
        self, question: Question, theta: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The products w g_w and w (H theta)_w for every entry of every parameter.

        Args:
            question: The net and its examples.
            theta: By parameter; None for the weights of all units.
        """
        batches = self.drawn(question)
        set_norms(question.model, self.norms, batches)
        named = question.parameters()
        if theta is None:
            shapes = {name: p.shape for name, p in named.items()}
            owned = unit_entries(question.graph, question.keep, shapes, own=self.own)
            theta = {name: named[name].detach() * mask.to(named[name].device)
                     for name, mask in owned.items()}  # fmt: skip
        slopes = gradient(question, batches)
        products = hessian_product(question, batches, theta)
        first = {name: p.detach() * slopes[name] for name, p in named.items()}
        second = {name: p.detach() * products[name] for name, p in named.items()}
        return first, second

    def terms(self, question: Question) -> dict[str, Tensor]:
        """|w g_w| + 1/2 |w (H theta)_w| for every entry of every parameter."""
        return _added(*self.orders(question))

    def weight_scores(self, question: Question) -> dict[str, Tensor]:
        """The score with theta the weights of all convolutions and linear layers."""
        named = question.parameters()
        theta = {name: named[name].detach() for name in prunable_weights(question.model)}
        return _added(*self.orders(question, theta))

    def score(self, question: Question) -> Scores:
        """Both orders, aggregated by unit and then added."""
        parts = [
            aggregate(question.graph, question.keep, terms, self.aggregation, own=self.own)
            for terms in self.orders(question)
        ]
        return {index: first + parts[1][index] / 2 for index, first in parts[0].items()}


def _added(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: first[name].abs() + second[name].abs() / 2 for name in first}
