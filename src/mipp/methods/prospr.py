"""ProsPr: the weights that the loss after a few steps of training depends on.

Alizadeh et al. 2022, "Prospect pruning: finding trainable weights at initialization using
meta-gradients" (arXiv 2202.08132).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from mipp.methods.method import Question, WeightMethod
from mipp.methods.shared.gradients import Norms, only_live, set_norms, task_loss
from mipp.methods.shared.samples import drawn
from mipp.statistics import Batch


@dataclass(frozen=True, kw_only=True)
class ProsPr(WeightMethod):
    """|dL(theta_M) / dc|, c = 1 a mask on the initial weight, theta_M after M steps of SGD.

    Since the initial weight is c w, this is |w dL/dw| with the derivative taken through all steps.
    All parameters take the steps. ``aggregation="signed"`` is the authors' gate on a channel;
    filters in front of a BatchNorm then have scores only from the first step on.

    Attributes:
        steps: M; with 0 it is `SNIP`.
        lr: Rate of the steps, without momentum or weight decay.
        second_order: Whether the derivative is taken through the steps' gradients. Without it they
            count as constants, and the score is the initial weight times the last gradient.
        new_data: Whether each step and the last loss have a batch of their own, as in the authors'
            ``prune()`` (their command line defaults to one batch for all).
        batch_size: Examples in a batch.
        norms: ``"train"``, as in the authors' code.
    """

    name = "prospr"
    summary = "change of the loss after 3 training steps without the weight"
    source = "Alizadeh et al. 2022, arXiv 2202.08132"
    needs = "labels"
    at_init = True
    ranking = "global"

    steps: int = 3
    lr: float | int = 0.1
    second_order: bool = True
    new_data: bool = True
    batch_size: int = 128
    norms: Norms = "train"

    def __post_init__(self) -> None:
        """Refuse a negative number of steps, and batches without examples."""
        super().__post_init__()
        self._at_least(0, "steps", "lr")
        self._at_least(1, "batch_size")

    def terms(self, question: Question) -> dict[str, Tensor]:
        """The weight times the derivative by it of the loss after the steps."""
        batches = self._batches(question)
        set_norms(question.model, self.norms, batches)
        start = question.parameters()
        at: dict[str, Tensor] = dict(start)
        for batch in batches[:-1]:
            slopes = self._slopes(question, at, at, batch, keep_graph=self.second_order)
            stepped = only_live(question, slopes)
            at = {name: value - self.lr * stepped[name] for name, value in at.items()}
        found = self._slopes(question, at, start, batches[-1], keep_graph=False)
        return {n: p.detach() * part for (n, p), part in
                zip(start.items(), only_live(question, found).values(), strict=True)}  # fmt: skip

    def _slopes(
        self,
        question: Question,
        at: dict[str, Tensor],
        by: Mapping[str, Tensor],
        batch: Batch,
        *,
        keep_graph: bool,
    ) -> dict[str, Tensor]:
        """Derivative by ``by`` of the loss at ``at``."""
        output = functional_call(question.model, at, batch.args, dict(batch.kwargs))
        loss = task_loss(question, output, batch)
        made = torch.autograd.grad(
            loss, list(by.values()), create_graph=keep_graph, materialize_grads=True
        )
        return dict(zip(by, made, strict=True))

    def _batches(self, question: Question) -> list[Batch]:
        """One batch for each step and one for the last loss; from the start again if too few."""
        wanted = self.steps + 1 if self.new_data else 1
        found = drawn(question, wanted * self.batch_size, self.batch_size)
        return [found[number % len(found)] for number in range(self.steps + 1)]
