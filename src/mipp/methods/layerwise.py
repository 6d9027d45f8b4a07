"""Competing methods that go layer after layer: Wanda and SparseGPT, from their formulas."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mipp import processes, surgery, weights
from mipp.checks import check_fields
from mipp.covariance import inverse_from
from mipp.errors import InputError
from mipp.methods.method import NOT_MEASURED, WeightChoice, WeightTarget
from mipp.methods.shared.unstructured import enough_memory, highest, whole
from mipp.options import WeightAllocation
from mipp.problem import WeightProblem
from mipp.selection.spend_weights import Spread
from mipp.weights.regression import Pattern


@dataclass(frozen=True)
class Layerwise(ABC):
    """A method of single weights that goes layer after layer, on what the pruned net puts in.

    The class attributes are those of a `Method`; ``spread`` is the source's.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    spread: ClassVar[Spread]
    measures_information: ClassVar[bool] = False
    chooses_weights: ClassVar[bool] = True
    weight_allocations: ClassVar[tuple[WeightAllocation, ...]] = ("uniform", "rows")

    @property
    def weight_allocation(self) -> WeightAllocation:
        """How weights are spread over a layer unless the caller says otherwise."""
        return self.spread

    @abstractmethod
    def prune(
        self,
        weight: Float[Tensor, "m d"],
        moment: Float[Tensor, "d d"],
        share: float,
        spread: Spread,
        pattern: Pattern | None = None,
    ) -> tuple[Bool[Tensor, "m d"], Float[Tensor, "m d"]]:
        """Which weights of one block of rows stay, and what they become.

        Args:
            weight: of the block.
            moment: E[X X'] of what it takes in.
            share: of the weights that stays, of each row or of all together.
            spread: which of the two.
            pattern: in place of a share.
        """

    def recorded(self) -> dict[str, Any]:
        """Its own options, as the record of a plan holds them."""
        return {"method_options": asdict(self)}

    def choose_weights(
        self, problem: WeightProblem, targets: Sequence[WeightTarget]
    ) -> Iterator[WeightChoice]:
        """The single weights that stay, for one target after the other."""
        return (_layer_after_layer(self, problem, target) for target in targets)


def _layer_after_layer(
    method: Layerwise, problem: WeightProblem, target: WeightTarget
) -> WeightChoice:
    options, share = problem.options, problem.share(target.most)
    spread, pattern = options.spread, options.pattern
    assert spread in ("uniform", "rows")
    masks, own = {}, {}

    def visit(stop: weights.Stop) -> None:
        layer, order = stop.layer, weights.cells_first(stop.layer)
        stays, made = [], []
        for block, weight in enumerate(layer.blocks(stop.call.weight.detach())):
            x = stop.x[:, block][:, order].double()
            moment, rows = x.T @ x, torch.tensor(float(len(x)), device=x.device)
            processes.all_reduce(f"what {layer.module} takes in", moment, rows)
            mask, new = method.prune(
                weight[:, order].double(), moment / rows, share, spread, pattern
            )
            stays.append(mask)
            made.append(new)
        masks[layer.name] = whole(layer, stays)
        stop.call.weight.data.copy_(whole(layer, made))
        own[layer.name] = stop.call.weight.detach().clone()
        problem.progress("score", len(masks), len(problem.layers))

    changed = surgery.slice_model(problem.model, {})
    with enough_memory(problem, "measuring", problem.layers):
        weights.in_order(
            changed, problem.model, problem.layers, problem.batches, visit,
            config=options.calibration, norm="keep", seed=options.seed,
        )  # fmt: skip
    problem.clock.lap("capture")
    return WeightChoice(masks, dict.fromkeys(masks, NOT_MEASURED), own)


@dataclass(frozen=True)
class Wanda(Layerwise):
    """|w_jq| times the norm of input q over all examples and positions; the smallest go.

    Compared within each output, which is the paper's default (``spread="rows"``), or within the
    layer (``"uniform"``). Layers in their order, on what the net pruned so far puts in; weights
    that stay are not changed.
    """

    name: ClassVar[str] = "wanda"
    summary: ClassVar[str] = "|weight| times the norm of its input, compared within each output"
    source: ClassVar[str] = "Sun et al. 2024, arXiv 2306.11695"
    spread: ClassVar[Spread] = "rows"

    def prune(
        self,
        weight: Float[Tensor, "m d"],
        moment: Float[Tensor, "d d"],
        share: float,
        spread: Spread,
        pattern: Pattern | None = None,
    ) -> tuple[Bool[Tensor, "m d"], Float[Tensor, "m d"]]:
        """The weights that stay, and what they become. See `Layerwise`."""
        scores = weight.abs() * moment.diagonal().clamp_min(0).sqrt()
        mask = highest(scores, share, spread, pattern)
        return mask, weight * mask


@dataclass(frozen=True)
class SparseGPT(Layerwise):
    """One sweep over the inputs of a layer: later inputs make up for the weights that go.

    With H = E[X X'] + ``damping`` times its mean diagonal, and U the upper Cholesky factor of
    inverse(H): for every ``block`` of inputs those weights go whose w^2 / U_qq^2 is smallest, over
    all outputs of the layer; then input by input the error w / U_qq of what went is taken off the
    weights of later inputs, in proportion to U's row. A pattern is chosen run by run on the way.

    Attributes:
        damping: Share of the mean diagonal; the default is the paper's.
        block: Number of inputs whose weights are chosen at once; the default is the paper's.
    """

    name: ClassVar[str] = "sparsegpt"
    summary: ClassVar[str] = "optimal brain surgeon in one sweep over the inputs of a layer"
    source: ClassVar[str] = "Frantar and Alistarh 2023, arXiv 2301.00774"
    spread: ClassVar[Spread] = "uniform"

    damping: float | int = 0.01
    block: int = 128

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.damping > 0 or self.block < 1:
            raise InputError(
                f"SparseGPT has damping={self.damping} and block={self.block}; expected a share "
                "above 0, such as 0.01, and a number of inputs, such as 128."
            )

    def prune(
        self,
        weight: Float[Tensor, "m d"],
        moment: Float[Tensor, "d d"],
        share: float,
        spread: Spread,
        pattern: Pattern | None = None,
    ) -> tuple[Bool[Tensor, "m d"], Float[Tensor, "m d"]]:
        """The weights that stay, and what they become. See `Layerwise`."""
        d = weight.shape[1]
        weight, moment = weight.clone(), moment.clone()
        dead = moment.diagonal() <= 0
        moment.diagonal()[dead] = 1
        weight[:, dead] = 0
        moment.diagonal().add_(self.damping * moment.diagonal().mean())
        inverse = inverse_from(torch.linalg.cholesky(moment))
        root = torch.linalg.cholesky(inverse, upper=True)
        mask = torch.ones_like(weight, dtype=torch.bool)
        # runs of a pattern are not cut by a block
        size = self.block if pattern is None else -(-self.block // pattern.run) * pattern.run
        for start in range(0, d, size):
            stop = min(start + size, d)
            upper, part = root[start:stop, start:stop], weight[:, start:stop].clone()
            if pattern is None:
                scores = part.square() / upper.diagonal().square()
                mask[:, start:stop] = highest(scores, share, spread, None)
            errors = torch.zeros_like(part)
            for q in range(stop - start):
                if pattern is not None and q % pattern.run == 0:
                    run = slice(q, min(q + pattern.run, stop - start))
                    scores = part[:, run].square() / upper.diagonal()[run].square()
                    mask[:, start:stop][:, run] = highest(scores, share, spread, pattern)
                gone = ~mask[:, start + q]
                error = part[:, q] * gone / upper[q, q]
                part[:, q:] -= error.unsqueeze(1) * upper[q, q:]
                errors[:, q] = error
            weight[:, start:stop] = part
            weight[:, stop:] -= errors @ root[start:stop, stop:]
        return mask, weight * mask


LAYERWISE: dict[str, type[Layerwise]] = {method.name: method for method in (Wanda, SparseGPT)}
