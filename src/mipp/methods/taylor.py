"""Taylor-FO: squared first-order change of the loss when a unit is gated off.

Molchanov et al. 2019, "Importance estimation for neural network pruning" (arXiv 1906.10771).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mipp.capture import Batch
from mipp.capture.loss import sampled_loss, settle
from mipp.methods.method import Method, Question, Scores
from mipp.taps import measuring

MINIBATCH = 32
"""Examples per gradient; the square is taken per minibatch, then averaged (as the paper does)."""


def _score(question: Question) -> Scores:
    """Mean over minibatches of (dL/dz_u)^2, z_u a gate on everything that reads unit u.

    The gate's gradient is the sum over the consumers' weights that read the unit of weight times
    gradient. Targets that come with the batches are used for a categorical loss; without targets
    labels are drawn from the model's own predictions.
    """
    graph, model = question.graph, question.model
    scores = {group.index: np.zeros(group.n_units) for group in graph.groups}
    weights = {c.weight: c for c in graph.consumers}
    parameters = dict(model.named_parameters())
    device = next(model.parameters()).device
    count = 0
    with measuring(model):
        read = [parameters[name].requires_grad_(True) for name in weights]
        for number, small in enumerate(_minibatches(question.batches)):
            batch = small.to(device)
            output = model(*batch.args, **batch.kwargs)
            loss = _loss(question, output, batch, number) / len(batch)
            gradients = torch.autograd.grad(loss, read)
            count += 1
            gates = {group.index: np.zeros(group.n_units) for group in graph.groups}
            for consumer, weight, gradient in zip(weights.values(), read, gradients, strict=True):
                product = (weight.detach() * gradient).double().movedim(consumer.in_dim, 0)
                columns = product.flatten(1).sum(1).cpu().numpy()
                axis = graph.axes[consumer.in_axis]
                for index, gate in gates.items():
                    mine = axis.group == index
                    np.add.at(gate, axis.unit[mine], columns[mine])
            for index, gate in gates.items():
                scores[index] += gate**2
    return {index: total / max(count, 1) for index, total in scores.items()}


def _minibatches(batches: Sequence[Batch]) -> list[Batch]:
    return [
        batch.part(start, start + MINIBATCH)
        for batch in batches
        for start in range(0, len(batch), MINIBATCH)
    ]


def _loss(question: Question, output: object, batch: Batch, number: int) -> Tensor:
    kind, _ = settle(question.loss, output, batch.target)
    if kind == "categorical" and isinstance(batch.target, Tensor):
        assert isinstance(output, Tensor)
        return torch.nn.functional.cross_entropy(output.float(), batch.target, reduction="sum")
    generator = torch.Generator().manual_seed(question.seed * 7_919 + number)
    return sampled_loss(kind, output, batch, generator)


TAYLOR = Method(
    "taylor", _score, "global", "labels", "squared first-order change of the loss, one global order"
)
