"""Taylor-FO: squared first-order change of the loss when a unit is gated off.

Molchanov et al. 2019, "Importance estimation for neural network pruning" (arXiv 1906.10771).
"""

from dataclasses import dataclass

import numpy as np
import torch

from mipp.capture import Batch
from mipp.methods.gradients import task_loss
from mipp.methods.method import Question, Scores, ScoringMethod


@dataclass(frozen=True, kw_only=True)
class Taylor(ScoringMethod):
    """Mean over minibatches of (dL/dz_u)^2, z_u a gate on everything that reads unit u.

    The gate's gradient is the sum over the consumers' weights that read the unit of weight times
    gradient. ``minibatch``: examples per gradient; the square is taken per minibatch, then averaged
    (as the paper does). Norms are in evaluation mode; all calibration examples are used.
    """

    name = "taylor"
    summary = "squared first-order change of the loss"
    source = "Molchanov et al. 2019, arXiv 1906.10771"
    needs = "labels"
    at_init = True
    ranking = "global"

    minibatch: int = 32

    def __post_init__(self) -> None:
        """Refuse minibatches without examples."""
        super().__post_init__()
        self._at_least(1, "minibatch")

    def score(self, question: Question) -> Scores:
        """The mean of the squares."""
        graph, parameters = question.graph, question.parameters()
        scores = {group.index: np.zeros(group.n_units) for group in graph.groups}
        consumers = {c.weight: c for c in graph.consumers}
        read = [parameters[name] for name in consumers]
        device = next(question.model.parameters()).device
        minibatches = self._minibatches(question)
        for small in minibatches:
            batch = small.to(device)
            loss = task_loss(question, question.model(*batch.args, **batch.kwargs), batch)
            gradients = torch.autograd.grad(loss, read)
            gates = {group.index: np.zeros(group.n_units) for group in graph.groups}
            for consumer, weight, part in zip(consumers.values(), read, gradients, strict=True):
                product = (weight.detach() * part).double().movedim(consumer.in_dim, 0)
                columns = product.flatten(1).sum(1).cpu().numpy()
                axis = graph.axes[consumer.in_axis]
                for index, gate in gates.items():
                    mine = axis.group == index
                    np.add.at(gate, axis.unit[mine], columns[mine])
            for index, gate in gates.items():
                scores[index] += gate**2
        return {index: total / len(minibatches) for index, total in scores.items()}

    def _minibatches(self, question: Question) -> list[Batch]:
        return [
            batch.part(start, start + self.minibatch)
            for batch in question.batches
            for start in range(0, len(batch), self.minibatch)
        ]
