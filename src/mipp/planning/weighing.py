"""The way to a plan of single weights: find layers, measure, follow each row, spend, choose."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from mipp import methods, out_of_memory, processes, selection, statistics, surgery, weights
from mipp.errors import BudgetError, CalibrationError
from mipp.planning.clock import Clock
from mipp.planning.curve_points import trail_of
from mipp.planning.curves import check_finite
from mipp.planning.few_rows import few_rows, of_weights
from mipp.planning.options import Progress
from mipp.planning.plan import Model, example
from mipp.planning.weight_options import WeightOptions, weights_to_dict
from mipp.planning.weight_plan import WeightPlan
from mipp.records import IntArray, Refusal, Trail
from mipp.surgery.mask_record import LayerSummary, MaskRecord, Nonzeros, packed
from mipp.weights.regression import Rows, errors_left

Found = tuple[dict[str, Tensor], dict[str, tuple[float, float]], dict[str, Tensor] | None]
"""Masks by parameter, nats (before, lost) of each, and weights that the method gives itself."""


def plan_weights(
    model: Model,
    data: Sequence[statistics.Batch],
    budgets: Sequence[selection.Budget | None],
    options: WeightOptions,
    progress: Progress,
    clock: Clock,
) -> list[WeightPlan[Model]]:
    """One plan for each budget; what is measured of the whole model is measured once."""
    args, kwargs = example(model, data)
    layers, refused = weights.find_layers(model, statistics.Batch(args, kwargs), data)
    layers, uneven = _even(layers, options)
    layers = weights.without_protected(layers, options.protect)
    processes.agree("the layers found", [f"{l.name} {l.shape}" for l in layers])
    clock.lap("capture")
    work = _Work(model, layers, data, options, progress, clock)
    others = sum(p.numel() for p in model.parameters()) - sum(m.numel() for m in work.live.values())
    before = work.n_live + others
    plans = []
    for budget, (masks, nats, own) in zip(
        budgets, work.found([_Target.of(b, before, others) for b in budgets]), strict=True
    ):
        words = weights_to_dict(options, budget) | {"loss": work.loss}
        words |= few_rows(of_weights(layers, work.uses), data)
        record = _record(model, work, masks, nats, words, (*refused, *uneven), others)
        clock.lap("plan")
        plans.append(WeightPlan(record, model, data, options.refit, own, dict(clock.seconds)))
    return plans


class _Target:
    """What a budget leaves: so many weights (None: any number), and a share of information."""

    def __init__(self, most: float | None, information: float | None) -> None:
        self.most, self.information = most, information

    @classmethod
    def of(cls, budget: selection.Budget | None, before: int, others: int) -> "_Target":
        """``others``: parameters that cannot go."""
        if budget is None or "params" not in budget.bounds:
            return cls(None, None if budget is None else budget.information)
        value, is_share = budget.bounds["params"]
        bound = value * before if is_share else value
        if bound < others:
            raise BudgetError(
                f"The budget params <= {int(bound):,} cannot be reached: {others:,} parameters are "
                f"biases, norms or layers that stay ({others / before:.3g} of all "
                f"{before:,}). Ask for more than that, or protect fewer layers."
            )
        return cls(bound - others, budget.information)


class _Work:
    """All that plans for one model have in common."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[weights.Layer],
        data: Sequence[statistics.Batch],
        options: WeightOptions,
        progress: Progress,
        clock: Clock,
    ) -> None:
        self.model, self.layers, self.data, self.options = model, layers, data, options
        self.progress, self.clock = progress, clock
        self.live = {l.name: model.get_parameter(l.name).detach() != 0 for l in layers}
        self.n_live = sum(int(live.sum()) for live in self.live.values())
        self.loss = ""
        self.uses: dict[str, float] = {}
        self.trails: tuple[Trail, ...] = ()

    def found(self, targets: Sequence[_Target]) -> Iterator[Found]:
        """The method's answer for each target."""
        method = self.options.method
        if isinstance(method, methods.Method):
            return (self._ranked(method, target) for target in targets)
        if isinstance(method, str):
            return self._informed(targets)
        return (self._layerwise(method, target) for target in targets)

    # ---- mipp

    def _informed(self, targets: Sequence[_Target]) -> Iterator[Found]:
        """Measures, follows all rows, and then spends each budget on the curves."""
        curves: dict[str, weights.RowCurves] = {}
        held: list[tuple[list[weights.Layer], dict[str, weights.Seen]]] = []
        parts = self._parts()
        for part in parts:
            seen = self._measured(part)
            for layer in part:
                dtype = weights.precision(layer)
                with self._enough_memory("eliminating weights of", [layer]):
                    blocks = self._rows(layer, seen[layer.name], dtype)
                    curves[layer.name] = weights.curves_of(
                        blocks, self._allowed(layer), self.options.pattern
                    )
                self.progress("score", len(curves), len(self.layers))
            if len(parts) == 1:
                held.append((part, seen))
        self.trails = tuple(
            trail_of(n, weights.Choice(c.kept.cpu().numpy(), c.nats.cpu().numpy()))
            for n, c in curves.items()
        )
        for target in targets:
            keep = self._spent(curves, target)
            masks: dict[str, Tensor] = {}
            nats: dict[str, tuple[float, float]] = {}
            for part, seen in held or ((part, self._measured(part)) for part in parts):
                for layer in part:
                    masks[layer.name], nats[layer.name] = self._chosen(
                        layer, seen[layer.name], curves[layer.name], keep[layer.name]
                    )
            yield masks, nats, None

    def _spent(
        self, curves: Mapping[str, weights.RowCurves], target: _Target
    ) -> dict[str, IntArray]:
        pattern = self.options.pattern
        if pattern is not None:
            return {n: np.full(len(c.rank), pattern.quota(c.rank.shape[1]))
                    for n, c in curves.items()}  # fmt: skip
        choices = {
            n: weights.Choice(c.kept.cpu().numpy(), c.nats.cpu().numpy()) for n, c in curves.items()
        }
        spread = self.options.spread
        assert spread != "global"
        return weights.spend(choices, target.most, target.information, spread)

    def _chosen(
        self, layer: weights.Layer, seen: weights.Seen, curves: weights.RowCurves, keep: IntArray
    ) -> tuple[Tensor, tuple[float, float]]:
        blocks = self._rows(layer, seen, torch.float64)
        wanted = torch.from_numpy(keep)
        masks = weights.chosen(blocks, self._allowed(layer), curves, wanted, self.options.pattern)
        lost = sum(float(r.nats(errors_left(r, m)).sum())
                   for r, m in zip(blocks, masks, strict=True))  # fmt: skip
        check_finite(layer.module, curves.total, lost)
        return self._whole(layer, masks), (curves.total, lost)

    def _rows(self, layer: weights.Layer, seen: weights.Seen, dtype: torch.dtype) -> list[Rows]:
        weight = self.model.get_parameter(layer.name)
        return weights.rows_of(layer, seen, weight, self.options.noise, self.options.ridge, dtype)

    def _allowed(self, layer: weights.Layer) -> list[Tensor]:
        order = weights.cells_first(layer)
        return [block[:, order] for block in layer.blocks(self.live[layer.name])]

    def _parts(self) -> list[list[weights.Layer]]:
        config = self.options.calibration
        sizes = [(n, weights.n_bytes(layer, config)) for n, layer in enumerate(self.layers)]
        return [[self.layers[n] for n in part]
                for part in statistics.chunks(sizes, self.options.memory)]  # fmt: skip

    def _measured(
        self, part: Sequence[weights.Layer], model: nn.Module | None = None
    ) -> dict[str, weights.Seen]:
        self.clock.lap("plan")
        fisher = self.options.method == "mipp" and self.options.noise == "fisher"
        with self._enough_memory("measuring", part):
            seen, how = weights.measure(
                model or self.model, part, self.data, loss=self.options.loss if fisher else None,
                config=self.options.calibration, seed=self.options.seed, advance=self._advance(),
            )  # fmt: skip
        self.loss = self.loss or how
        self.uses |= {name: one.uses for name, one in seen.items()}
        self.clock.lap("capture")
        return seen

    def _enough_memory(
        self, doing: str, layers: Sequence[weights.Layer]
    ) -> AbstractContextManager[None]:
        """Says which of the layers is the largest, should memory run out inside."""
        config = self.options.calibration
        largest = max(layers, key=lambda layer: weights.n_bytes(layer, config))
        return out_of_memory.enough_memory(
            doing, largest.module, largest.block[1], weights.n_bytes(largest, config),
            CalibrationError,
            f"Lower memory= (now {self.options.memory:,} bytes), which holds fewer layers at a "
            "time, give fewer samples=, name the layer in protect=, or take a method that needs no "
            "moments, such as method='l2'.",
        )  # fmt: skip

    def _advance(self) -> Callable[[], None]:
        count = iter(range(1, len(self.data) + 1))
        return lambda: self.progress("capture", next(count), len(self.data))

    # ---- others

    def _layerwise(self, method: weights.Layerwise, target: _Target) -> Found:
        """Layer after layer, each on what the layers pruned before it put in."""
        share = 1.0 if target.most is None else min(1.0, target.most / max(self.n_live, 1))
        spread = self.options.spread
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
                    weight[:, order].double(), moment / rows, share, spread,
                    self.options.pattern,
                )  # fmt: skip
                stays.append(mask)
                made.append(new)
            masks[layer.name] = self._whole(layer, stays)
            stop.call.weight.data.copy_(self._whole(layer, made))
            own[layer.name] = stop.call.weight.detach().clone()
            self.progress("score", len(masks), len(self.layers))

        changed = surgery.slice_model(self.model, {})
        with self._enough_memory("measuring", self.layers):
            weights.in_order(
                changed, self.model, self.layers, self.data, visit,
                config=self.options.calibration, norm="keep", seed=self.options.seed,
            )  # fmt: skip
        self.clock.lap("capture")
        return masks, _no_nats(masks), own

    def _ranked(self, method: methods.Method, target: _Target) -> Found:
        """The best scores, of all layers together, of each layer, row or run."""
        by_name = {layer.name: layer for layer in self.layers}
        spread, pattern = self.options.spread, self.options.pattern
        share = 1.0 if target.most is None else min(1.0, target.most / max(self.n_live, 1))

        def choose(
            scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], density: float
        ) -> dict[str, Tensor]:
            found = {}
            for name, mask in masks.items():
                layer, order = by_name[name], weights.cells_first(by_name[name])
                low = scores[name].double().masked_fill(~mask, -torch.inf)
                stays = [
                    weights.best(block[:, order], density, "rows" if spread == "rows" else
                                 "uniform", pattern)
                    for block in layer.blocks(low)
                ]  # fmt: skip
                found[name] = self._whole(layer, stays) & mask
            return found

        masks = methods.weight_masks(
            method, self.model, self.data, share,
            names=[layer.name for layer in self.layers],
            choose=None if spread == "global" and pattern is None else choose,
            loss=self.options.loss, seed=self.options.seed,
        )  # fmt: skip
        self.clock.lap("plan" if method.needs == "nothing" else "capture")
        return masks, _no_nats(masks), None

    @staticmethod
    def _whole(layer: weights.Layer, blocks: Sequence[Tensor]) -> Tensor:
        """Blocks with columns as `weights.cells_first` has them, in the shape of the weight."""
        return layer.whole(
            torch.stack([b[:, weights.cells_first(layer).argsort()] for b in blocks])
        )


def _no_nats(masks: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
    return dict.fromkeys(masks, (float("nan"), float("nan")))


def _even(
    layers: Sequence[weights.Layer], options: WeightOptions
) -> tuple[tuple[weights.Layer, ...], tuple[Refusal, ...]]:
    """The layers whose inputs come in whole runs, and the others."""
    pattern = options.pattern
    if pattern is None:
        return tuple(layers), ()
    fits = {l.name: l.channels % pattern.run == 0 for l in layers}
    reason = "its {} inputs are no multiple of {}, so that no kernel takes the pattern"
    return tuple(l for l in layers if fits[l.name]), tuple(
        Refusal(l.module, int(np.prod(l.shape)), reason.format(l.channels, pattern.run))
        for l in layers if not fits[l.name]
    )  # fmt: skip


def _record(
    model: nn.Module,
    work: _Work,
    masks: Mapping[str, Tensor],
    nats: Mapping[str, tuple[float, float]],
    options: Mapping[str, object],
    refused: tuple[Refusal, ...],
    others: int,
) -> MaskRecord:
    summary = []
    for layer in work.layers:
        mask, (total, lost) = masks[layer.name] & work.live[layer.name], nats[layer.name]
        empty = ~layer.blocks(mask).any(2)
        summary.append(
            LayerSummary(
                name=layer.name,
                shape=layer.shape,
                weights_before=int(work.live[layer.name].sum()),
                weights_after=int(mask.sum()),
                empty_rows=int(empty.sum()),
                nats_before=total,
                nats_after=float(np.maximum(total - lost, 0)),
            )
        )
    after = sum(row.weights_after for row in summary)
    return MaskRecord(
        granularity=str(options["granularity"]),
        masks={n: packed((m & work.live[n]).cpu().numpy()) for n, m in masks.items()},
        summary=tuple(summary),
        refused=refused,
        before=Nonzeros(work.n_live + others, work.n_live),
        after=Nonzeros(after + others, after),
        options=options,
        fingerprint=surgery.fingerprint(surgery.state_shapes(model)),
        mipp_version=surgery.installed_version(),
        trails=work.trails,
    )
