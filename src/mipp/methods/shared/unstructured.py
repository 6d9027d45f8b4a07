"""Single weights ranked by the scores of a method; blocks of layers, and their memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mipp import out_of_memory, weights
from mipp.errors import CalibrationError, InputError
from mipp.methods.method import NOT_MEASURED, Method, Question, WeightChoice, WeightTarget
from mipp.methods.shared.gradients import prunable_weights
from mipp.methods.shared.iterative import as_asked, check_labels, mean_over_ranks
from mipp.problem import WeightProblem, less_memory
from mipp.records import ChannelGraph
from mipp.selection.spend_weights import Spread
from mipp.statistics import Loss, noting_shift, read_batches
from mipp.tracing.guards import duplicate
from mipp.weights.regression import Pattern


@runtime_checkable
class ScoresWeights(Protocol):
    """A method that can rank single weights."""

    def weight_scores(self, question: Question) -> dict[str, Tensor]:
        """Score of each entry of each parameter, by name; the lowest goes first."""
        ...


Choose = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], float], dict[str, Tensor]]
"""``choose(scores, masks, density)``: of the weights in the masks those that stay in a round, when
a share of ``density`` of all that there were shall be left."""


def weight_masks(
    method: Method,
    model: nn.Module,
    batches: Iterable[Any],
    density: float | int,
    *,
    names: Sequence[str] | None = None,
    choose: Choose | None = None,
    loss: Loss | str = "auto",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Masks of the single weights that a method keeps, ranked over all layers together.

    As for units, the method scores in its rounds, with ``density ** (k / rounds)`` of the weights
    left after round k, on a copy in which the others are zero.

    Args:
        method: A method with ``weight_scores``.
        model: Its model; it is not changed.
        batches: The examples.
        density: Share of the weights that stays, above 0 up to 1.
        names: Of the parameters; None for those of `prunable_weights`.
        choose: Chooses the weights of a round; None for the highest scores of all layers.
        loss: As in `mipp.Options`.
        seed: Of all random draws.

    Raises:
        InputError: The method has no scores of single weights, or the density is out of range.
        CalibrationError: Scores are not finite.
    """
    if not isinstance(method, ScoresWeights):
        raise InputError(f"method={method.name!r} scores units, not single weights.")
    if not 0 < density <= 1:
        raise InputError(f"density={density}; expected a share of the weights, above 0 up to 1.")
    nothing = ChannelGraph((), (), {}, (), {}, ())
    data = noting_shift(model, read_batches(batches), 4)
    first = Question(model, nothing, data, loss, seed, rounds=method.rounds)
    check_labels(method, first)
    named = dict(model.named_parameters())
    names = prunable_weights(model) if names is None else names
    masks = {n: torch.ones_like(named[n], dtype=torch.bool) for n in names}
    for number in range(1, method.rounds + 1):
        question = replace(first, round=number)

        def masked(question: Question = question, live: dict[str, Tensor] = masks) -> Question:
            return replace(question, model=_masked(model, live), live=live)

        with as_asked(method, question, masked, whole=number == 1) as asked:
            scores = method.weight_scores(asked)
        for name, mask in masks.items():
            if not torch.isfinite(scores[name][mask]).all():
                raise CalibrationError(
                    f"method={method.name!r} gave scores of {name} that are not finite. Check "
                    "weights and batches for infinite values, or use a model in float64."
                )
        scores = {name: mean_over_ranks(name, scores[name]) for name in masks}
        masks = (choose or _best)(scores, masks, density ** (number / method.rounds))
    return masks


def _masked(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    copied = duplicate(model)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if name in masks:
                parameter.mul_(masks[name])
    return copied


def _best(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], density: float
) -> dict[str, Tensor]:
    """The highest of the weights that are left, over all layers."""
    n_kept = max(1, round(sum(mask.numel() for mask in masks.values()) * density))
    flat = torch.cat(
        [scores[n].double().masked_fill(~mask, -torch.inf).flatten() for n, mask in masks.items()]
    )
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(n_kept).indices] = True
    parts = chosen.split([mask.numel() for mask in masks.values()])
    return {n: part.view_as(mask) for (n, mask), part in zip(masks.items(), parts, strict=True)}


def ranked(method: Method, problem: WeightProblem, target: WeightTarget) -> WeightChoice:
    """The weights of highest scores, of all layers together, of each layer, row or run."""
    by_name = {layer.name: layer for layer in problem.layers}
    spread, pattern = problem.options.spread, problem.options.pattern

    def choose(
        scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], density: float
    ) -> dict[str, Tensor]:
        found = {}
        for name, mask in masks.items():
            layer, order = by_name[name], weights.cells_first(by_name[name])
            low = scores[name].double().masked_fill(~mask, -torch.inf)
            stays = [
                highest(block[:, order], density, "rows" if spread == "rows" else "uniform",
                        pattern)
                for block in layer.blocks(low)
            ]  # fmt: skip
            found[name] = whole(layer, stays) & mask
        return found

    masks = weight_masks(
        method, problem.model, problem.batches, problem.share(target.most),
        names=[layer.name for layer in problem.layers],
        choose=None if spread == "global" and pattern is None else choose,
        loss=problem.options.loss, seed=problem.options.seed,
    )  # fmt: skip
    problem.clock.lap("plan" if method.needs == "nothing" else "capture")
    return WeightChoice(masks, dict.fromkeys(masks, NOT_MEASURED))


def highest(
    scores: Float[Tensor, "m d"], share: float, spread: Spread, pattern: Pattern | None
) -> Bool[Tensor, "m d"]:
    """The highest scores: those of each run, of each row, or of all rows together."""
    everything = torch.ones_like(scores, dtype=torch.bool)
    if pattern is not None:
        return ~pattern.removable(everything, scores)
    compared = scores if spread == "rows" else scores.reshape(1, -1)
    count = int(share * compared.shape[1] + 1e-9)
    order = compared.argsort(dim=1, descending=True, stable=True)[:, :count]
    found = torch.zeros_like(compared, dtype=torch.bool).scatter_(
        1, order, torch.ones_like(order, dtype=torch.bool)
    )
    return found.view_as(scores)


def whole(layer: weights.Layer, blocks: Sequence[Tensor]) -> Tensor:
    """Blocks with columns as `weights.cells_first` has them, in the shape of the weight."""
    order = weights.cells_first(layer).argsort()
    return layer.whole(torch.stack([block[:, order] for block in blocks]))


def enough_memory(
    problem: WeightProblem, doing: str, layers: Sequence[weights.Layer]
) -> AbstractContextManager[None]:
    """Says which of the layers is the largest, should memory run out inside."""
    config = problem.options.calibration
    largest = max(layers, key=lambda layer: weights.n_bytes(layer, config))
    return out_of_memory.enough_memory(
        doing, largest.module, largest.block[1], weights.n_bytes(largest, config),
        CalibrationError, less_memory(problem.options),
    )  # fmt: skip
