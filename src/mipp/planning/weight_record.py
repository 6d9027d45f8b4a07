"""The record of a plan of single weights, and what a budget leaves of them."""

from collections.abc import Mapping

import numpy as np

from mipp import selection, surgery
from mipp.errors import BudgetError
from mipp.methods import WeightChoice, WeightTarget
from mipp.problem import WeightProblem
from mipp.statistics.few_rows import Sampled, few_rows
from mipp.surgery.masks import LayerSummary, MaskRecord, Nonzeros, packed


def weight_target(problem: WeightProblem, budget: selection.Budget | None) -> WeightTarget:
    """What the budget leaves.

    Raises:
        BudgetError: less than what cannot go.
    """
    if budget is None or "params" not in budget.bounds:
        return WeightTarget(None, None if budget is None else budget.information)
    others, before = problem.others, problem.n_live + problem.others
    value, is_share = budget.bounds["params"]
    bound = value * before if is_share else value
    if bound < others:
        raise BudgetError(
            f"The budget params <= {int(bound):,} cannot be reached: {others:,} parameters are "
            f"biases, norms or layers that stay ({others / before:.3g} of all "
            f"{before:,}). Ask for more than that, or protect fewer layers."
        )
    return WeightTarget(bound - others, budget.information)


def weight_record(
    problem: WeightProblem, choice: WeightChoice, options: Mapping[str, object]
) -> MaskRecord:
    """The plan as plain data. ``options``: as plain values."""
    positions = problem.positions
    sampled = [
        Sampled(layer.module, positions[layer.name], layer.block[1])
        for layer in problem.layers
        if layer.name in positions
    ]
    words = {**options, "loss": choice.loss, **few_rows(sampled, problem.batches)}
    summary, masks = [], {}
    for layer in problem.layers:
        live = problem.live[layer.name]
        mask, (total, lost) = choice.masks[layer.name] & live, choice.nats[layer.name]
        masks[layer.name] = packed(mask.cpu().numpy())
        empty = ~layer.blocks(mask).any(2)
        summary.append(
            LayerSummary(
                name=layer.name,
                shape=layer.shape,
                weights_before=int(live.sum()),
                weights_after=int(mask.sum()),
                empty_rows=int(empty.sum()),
                nats_before=total,
                nats_after=float(np.maximum(total - lost, 0)),
            )
        )
    after = sum(row.weights_after for row in summary)
    return MaskRecord(
        granularity=problem.options.granularity,
        masks=masks,
        summary=tuple(summary),
        refused=problem.refused,
        before=Nonzeros(problem.n_live + problem.others, problem.n_live),
        after=Nonzeros(after + problem.others, after),
        options=words,
        fingerprint=surgery.fingerprint(surgery.state_shapes(problem.model)),
        mipp_version=surgery.installed_version(),
        trails=choice.trails,
    )
