"""ThiNet: removes the channels whose sum matters least to the next layer's outputs.

Luo et al. 2017, "ThiNet: a filter level pruning method for deep neural network compression" (arXiv
1707.06342), and its journal version, "ThiNet: pruning CNN filters for a thinner net" (TPAMI 2019).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mipp import surgery
from mipp.errors import CalibrationError
from mipp.methods.method import Question, Scores, ScoringMethod
from mipp.methods.shared.input_moments import own_columns
from mipp.methods.shared.samples import ExampleMethod
from mipp.records import BoolArray, FloatArray, IntArray
from mipp.statistics import Batch
from mipp.tracing.calls import Call, CallHooks, input_rows, n_positions, weight_matrix
from mipp.tracing.guards import measuring


@dataclass(frozen=True, kw_only=True)
class ThiNet(ExampleMethod, ScoringMethod):
    """Greedy choice of the units whose sum is smallest in the next layer's outputs.

    An instance is one output of the next layer (example, filter f and position drawn at random). It
    is the sum over units c of x_c, the inputs from c times the weights W[f, c], without the bias.
    The score is the place in the order of removal. Where several layers read the unit, the
    instances of all of them count. The net is in evaluation mode.

    The authors then scale each kept channel by least squares; ``refit="own"`` of `mipp.plan` does
    that (`mipp.Refit` fits all weights, of which the factors are a special case). They prune layer
    by layer from the input with fine-tuning between: here all layers are judged on the same net,
    or in ``rounds``.

    Attributes:
        variant: With ``"iccv"`` units are removed one by one, each time the one that keeps the
            square of the removed sum smallest. With ``"tpami"`` units are chosen one by one
            (orthogonal matching pursuit), each time the one that, scaled, is nearest to the
            residual of the output after refitting the chosen ones.
        examples: 10,000, the authors' 10 images of each of 1000 classes.
        locations: Instances for each example, 10 in the authors' code.
    """

    name = "thinet"
    summary = "greedy smallest sum of removed channels in the next layer"
    source = "Luo et al. 2017, arXiv 1707.06342"
    needs = "data"
    at_init = True
    ranking = "local"
    reads_only = True
    update = surgery.Refit(fits="scale")

    variant: Literal["iccv", "tpami"] = "iccv"
    examples: int | None = 10_000
    locations: int = 10

    def __post_init__(self) -> None:
        """Refuse to look at nothing."""
        super().__post_init__()
        self._at_least(1, "locations")

    def score(self, question: Question) -> Scores:
        """The place of each unit in the order of removal; removed units get zero."""
        batches = self.drawn(question)
        order_of = removal_order if self.variant == "iccv" else pursuit_order
        scores = {}
        for index, gram in self.grams(question, batches).items():
            units = question.keep.get(index, np.ones(len(gram), dtype=bool))
            scores[index] = np.zeros(len(gram))
            order = order_of(gram, units)
            scores[index][order] = np.arange(1, len(order) + 1)
        return scores

    def grams(self, question: Question, batches: list[Batch]) -> dict[int, FloatArray]:
        """Sum over the instances of x_c x_c', shape ``(n_units, n_units)``, by group index.

        Raises:
            CalibrationError: The sums are not finite.
        """
        graph = question.graph
        by_call: dict[tuple[str, int], list[tuple[int, IntArray, IntArray]]] = {}
        for group in graph.groups:
            for number in group.consumers:
                consumer = graph.consumers[number]
                columns, unit = own_columns(question, group, consumer)
                places = by_call.setdefault((consumer.weight, consumer.call), [])
                places.append((group.index, columns, unit))
        grams = {
            g.index: torch.zeros(g.n_units, g.n_units, dtype=torch.float64) for g in graph.groups
        }
        generator = torch.Generator().manual_seed(question.seed + question.round)

        for batch in batches:

            def after(call: Call, output: Tensor, size: int = len(batch)) -> Tensor:
                if call.key in by_call:
                    rows = self._instances(call, output, size, generator)
                    for index, columns, unit in by_call[call.key]:
                        x = torch.zeros(len(rows), len(grams[index]), dtype=torch.float64)
                        x.index_add_(1, torch.from_numpy(unit), rows[:, columns])
                        grams[index] += x.T @ x
                return output

            with torch.no_grad(), measuring(question.model), CallHooks(question.model, after=after):
                question.model(*batch.args, **batch.kwargs)
        for group in graph.groups:
            if not bool(torch.isfinite(grams[group.index]).all()):
                raise CalibrationError(
                    f"What the layers behind group {group.name} take in of it is not finite. Check "
                    "weights and batches for infinite values, or use a model in float64."
                )
        return {index: gram.numpy() for index, gram in grams.items()}

    def _instances(
        self, call: Call, output: Tensor, size: int, generator: torch.Generator
    ) -> Tensor:
        """Inputs times the weights of a drawn output, ``(size * locations, d)``, on the CPU."""
        matrix = weight_matrix(call.kind, call.weight).double().cpu()
        wanted = size * self.locations
        total = n_positions(call)
        # equally many of each example, unless a layer sees the batch in another shape
        size = size if total % size == 0 else 1
        example = torch.arange(wanted) % size
        place = torch.randint(total // size, (wanted,), generator=generator)
        pick = example * (total // size) + place
        filters = torch.randint(len(matrix), (wanted,), generator=generator)
        inputs = input_rows(call, pick.to(output.device)).double().cpu()
        return inputs * matrix[filters]


def removal_order(gram: FloatArray, units: BoolArray) -> IntArray:
    """``units`` in the order in which their removed sum stays smallest, shape ``(n,)``."""
    left = list(np.flatnonzero(units))
    with_removed = np.zeros(len(gram))
    order = []
    while left:
        # ||s + x_c||^2 = s's + 2 s'x_c + x_c'x_c
        costs = 2 * with_removed[left] + gram.diagonal()[left]
        unit = left.pop(int(np.argmin(costs)))
        with_removed += gram[unit]
        order.append(unit)
    return np.array(order, dtype=np.int64)


def pursuit_order(gram: FloatArray, units: BoolArray) -> IntArray:
    """``units`` in the order of removal, the reverse of the order of choice, shape ``(n,)``.

    Computed from the Gram matrix alone, by a Cholesky factor that grows with each choice.
    """
    unexplained = gram[:, units].sum(1)  # x_c' residual; at first the residual is the output
    own = gram.diagonal().copy()  # squared length of x_c beyond the chosen ones
    lengths = np.maximum(gram.diagonal(), 1e-300)
    factor = np.zeros((len(gram), 0))
    left, chosen = list(np.flatnonzero(units)), []
    while left:
        unit = left.pop(int(np.argmax(unexplained[left] ** 2 / lengths[left])))
        chosen.append(unit)
        if own[unit] <= 1e-12 * lengths[unit]:
            continue  # a combination of those chosen before: explains nothing more
        column = (gram[:, unit] - factor @ factor[unit]) / np.sqrt(own[unit])
        unexplained = unexplained - column * (unexplained[unit] / np.sqrt(own[unit]))
        own = own - column**2
        factor = np.column_stack([factor, column])
    return np.array(chosen[::-1], dtype=np.int64)


def scales(gram: FloatArray, kept: BoolArray, ridge: float = 1e-6) -> FloatArray:
    """Least-squares factors of the kept units for the sum over all, zero for the others.

    Args:
        gram: Sum over the instances of x_c x_c', shape ``(n_units, n_units)``.
        kept: Mask of the kept units.
        ridge: Added to the diagonal, as a share of its mean.

    Returns:
        The factors, shape ``(n_units,)``.
    """
    inner = gram[np.ix_(kept, kept)]
    damped = inner + ridge * np.trace(inner) / max(len(inner), 1) * np.eye(len(inner))
    factors = np.zeros(len(gram))
    factors[kept] = np.linalg.solve(damped, gram[kept].sum(1))
    return factors
