"""A plan of single weights, which leaves a model of the same size with zeros in it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from mipp import graph, processes, retrain, statistics, surgery, weights
from mipp.checks import checked
from mipp.errors import InputError
from mipp.options import Progress
from mipp.planning.any_plan import AnyPlan, Model
from mipp.planning.option_values import check_weight_refit, read_refit, recorded_weight_refit
from mipp.planning.plan_figures import weight_metrics
from mipp.progress import following
from mipp.prunable import example
from mipp.records import BoolArray
from mipp.report import weights_notebook, weights_page
from mipp.surgery.mask_record import LayerSummary, MaskRecord, Nonzeros, apply_masks
from mipp.surgery.tensors import check_fingerprint


@dataclass(frozen=True, eq=False)
class WeightPlan(AnyPlan[Model, LayerSummary, Nonzeros]):
    """Which single weights stay. Nothing is changed until `apply`, and then only a copy.

    A plan keeps the model and the calibration batches that it was made with, for `apply` and
    `mask`; one that is read with `from_json` takes them from the caller. Printed, it has a line for
    each layer, the totals, and what is refused and why.

    Attributes:
        record: the plan as plain data.
        model: that the plan is for; None if it was read without.
        batches: calibration batches, for a refit.
        refit: how the remaining weights take over; None for not at all.
        seconds: how long it took to ``capture`` (passes through the model) and ``plan`` (the rest).
        outputs: as in `mipp.WeightOptions`.
        own: weights that the method itself gives, by parameter.

    Examples:
        >>> import torch
        >>> import mipp
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> batches = [torch.randn(64, 4)]
        >>> plan = mipp.plan(net, batches, "params=50%", granularity="weight")
        >>> plan.after.params <= plan.before.params / 2
        True
        >>> int((plan.apply()[0].weight == 0).sum()) == int((~plan.keep("0.weight")).sum())
        True
    """

    record: MaskRecord
    own: Mapping[str, Tensor] | None = None
    _masks: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _read_record = MaskRecord.from_json
    _read_refit = staticmethod(recorded_weight_refit)
    _page = staticmethod(weights_page)
    _notebook = staticmethod(weights_notebook)
    _figures = staticmethod(weight_metrics)

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Parameter name -> mask in its shape, true where a weight stays."""
        if not self._masks:
            self._masks.update(
                {n: torch.from_numpy(self.record.mask(n)) for n in self.record.masks}
            )
        return self._masks

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Layers without any weight left, whose outputs are their biases."""
        return tuple(row.name for row in self.summary if row.weights_after == 0)

    def _applied(
        self,
        model: Model,
        refit: "surgery.Refit | str | bool | None",
        progress: Progress | bool | None,
        batches: Sequence[statistics.Batch] | None = None,
    ) -> Model:
        check_fingerprint(model, self.record.fingerprint)
        config: surgery.Refit | Literal["own"] | None
        config = self.refit if refit is True else "own" if refit == "own" else read_refit(refit)
        check_weight_refit(config)
        if config == "own":
            copied = apply_masks(model, self.masks, self._own())
        else:
            copied = apply_masks(model, self.masks)
        if isinstance(config, surgery.Refit) and self.after.weights < self.before.weights:
            self._check_batches()
            args, kwargs = example(model, self.batches)
            found, _ = weights.find_layers(model, statistics.Batch(args, kwargs), self.batches)
            mine = [layer for layer in found if layer.name in self.masks]
            fitted = itertools.count(1)
            with following(progress) as report, processes.together(model):
                weights.update(
                    copied, model, mine, self.masks, batches or self.batches, config,
                    self._seed(), self._memory(),
                    advance=lambda: report("refit", next(fitted), len(mine)),
                )  # fmt: skip
        return copied

    def mask(self) -> Model:
        """A copy in which the removed weights are zero and all others are as they were."""
        return self.apply(refit=False)

    @checked
    def hold(self, model: nn.Module) -> retrain.AnyStep:
        """A step for `mipp.retrain.train` that keeps what this plan removed at zero.

        In another loop call it with the optimizer in place of ``optimizer.step()``. The removed
        weights, and the momentum of the optimizer there, are exactly zero after every step. For a
        model that was loaded, `mipp.retrain.hold_zeros` does the same.

        Args:
            model: what `apply` returned.
        """
        return retrain.hold_masks(graph.unwrap(model), self.masks)

    def _step(self, small: nn.Module) -> retrain.AnyStep | None:
        return self.hold(small)

    def keep(self, name: str) -> BoolArray:
        """Which entries of a parameter stay, in its shape."""
        return self.record.mask(name)

    def _own(self) -> Mapping[str, Tensor]:
        if self.own is None and self.record.options.get("method") == "sparsegpt":
            raise InputError(
                "This plan was read from text, which does not hold the weights that the method "
                "gives. Make the plan again, or apply it with refit=True or refit=False."
            )
        return self.own or {}
