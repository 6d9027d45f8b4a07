"""A plan of single weights: which stay, what that loses; and the model with zeros that it makes."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn

from mipp import graph, report, retrain, statistics, surgery, weights
from mipp.checks import checked
from mipp.errors import InputError
from mipp.planning.options import read_refit, recorded_refit
from mipp.planning.plan import Model, calibration, example
from mipp.planning.weight_options import check_refit
from mipp.records import BoolArray, Refusal
from mipp.surgery.mask_record import LayerSummary, MaskRecord, Nonzeros, apply_masks, check_made_for
from mipp.tracing.guards import gradients_enabled


@dataclass(frozen=True, eq=False)
class WeightPlan(Generic[Model]):
    """Which single weights stay. Nothing is changed until `apply`, and then only a copy.

    ``record`` is the plan as plain data. The model and the calibration batches that it was made
    with are held for `apply` and `mask`; a plan read with `from_json` takes them from the caller.
    Printed, it has a line for each layer, the totals, and what is refused and why. ``own``: weights
    that the method gives itself, by parameter. ``seconds``: how long it took to ``capture`` (passes
    through the model) and ``plan`` (the rest).
    """

    record: MaskRecord
    model: Model | None = None
    batches: Sequence[statistics.Batch] = ()
    refit: "surgery.Refit | str | None" = None
    own: Mapping[str, Tensor] | None = None
    seconds: Mapping[str, float] | None = None
    _masks: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Parameter name -> mask in its shape, true where a weight stays."""
        if not self._masks:
            self._masks.update(
                {n: torch.from_numpy(self.record.mask(n)) for n in self.record.masks}
            )
        return self._masks

    @property
    def summary(self) -> tuple[LayerSummary, ...]:
        """Weights, nats and outputs without any weight of each layer, before and after."""
        return self.record.summary

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Layers whose weights are left as they are, and why."""
        return self.record.refused

    @property
    def before(self) -> Nonzeros:
        """Weights and parameters of the model that are not zero before pruning."""
        return self.record.before

    @property
    def after(self) -> Nonzeros:
        """The same after pruning."""
        return self.record.after

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Layers without any weight left, whose outputs are their biases."""
        return tuple(row.name for row in self.summary if row.weights_after == 0)

    def __str__(self) -> str:
        return "\n".join(self.record.describe())

    def to_json(self) -> str:
        """The plan as text; `from_json` reads it back."""
        return self.record.to_json()

    @classmethod
    @gradients_enabled()
    def from_json(
        cls, text: str, model: Model | None = None, batches: Iterable[Any] | None = None
    ) -> "WeightPlan[Model]":
        """Reads a plan. ``batches`` are needed only for a refit.

        Raises:
            FileError: when the text is damaged.
            CalibrationError: when the batches cannot be used.
        """
        record = MaskRecord.from_json(text)
        own = record.options.get("refit") == "own"
        refit = "own" if own else recorded_refit(record.options)
        if model is not None:
            model = graph.unwrap(model)  # type: ignore[assignment] # of the model, or inside
        samples = record.options.get("samples")
        read = (
            calibration(model, batches, samples if isinstance(samples, int) else None)
            if batches is not None
            else []
        )
        return cls(record, model, read, refit)

    @gradients_enabled()
    def apply(self, refit: "surgery.Refit | str | bool | None" = True) -> Model:
        """A copy with the zeros, an ordinary module; the original is untouched.

        ``refit``: True as planned, False to leave the weights that stay as they are, ``"own"`` for
        the weights that the method gives, or a mode or `mipp.Refit` record. A refit runs all
        calibration examples through the copy at once, and is not merged over processes.

        Raises:
            InputError: a plan without its model, or of another one; a refit without batches.
            SurgeryError: the model cannot be copied, or refitted weights are not finite.
        """
        model = self._model()
        check_made_for(model, self.record)
        config = self.refit if refit is True else refit if refit == "own" else read_refit(refit)
        check_refit(config)
        if config == "own":
            return apply_masks(model, self.masks, self._own())
        copied = apply_masks(model, self.masks)
        if isinstance(config, surgery.Refit) and self.after.weights < self.before.weights:
            if not self.batches:
                raise InputError(
                    "A refit needs calibration batches, and this plan has none. Read it with "
                    "mipp.WeightPlan.from_json(text, model, batches), or call apply(refit=False)."
                )
            args, kwargs = example(model, self.batches)
            found, _ = weights.find_layers(model, statistics.Batch(args, kwargs), self.batches)
            mine = [layer for layer in found if layer.name in self.masks]
            seed = self.record.options.get("seed", 0)
            weights.update(
                copied, model, mine, self.masks, self.batches, config,
                seed if isinstance(seed, int) else 0,
            )  # fmt: skip
        return copied

    def mask(self) -> Model:
        """A copy whose weights that go are zero and whose others are as they were."""
        return self.apply(refit=False)

    @checked
    def report(self, path: "str | Path", measured: "report.Measured | None" = None) -> None:
        """Writes one HTML file: density and nats of every layer, refusals, options.

        Parameters and errors as of `mipp.Plan.report`.
        """
        versions = {"torch": torch.__version__, "Python": platform.python_version()}
        page = report.weights_page(
            self.record, seconds=self.seconds, versions=versions, measured=measured
        )
        report.write(Path(path), page)

    @checked
    def hold(self, model: nn.Module) -> retrain.AnyStep:
        """A step for `mipp.retrain.train` that keeps what this plan removed at zero.

        In another loop call it with the optimizer in place of ``optimizer.step()``.

        ``model``: what `apply` gave. Its weights, and the momentum of the optimizer, are exactly
        zero there after every step. Of a model that was loaded, `mipp.retrain.hold_zeros` does the
        same.
        """
        return retrain.hold_masks(graph.unwrap(model), self.masks)

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

    def _model(self) -> Model:
        if self.model is None:
            raise InputError(
                "This plan was read without a model. Use mipp.WeightPlan.from_json(text, model)."
            )
        return self.model
