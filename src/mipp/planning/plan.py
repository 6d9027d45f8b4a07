"""A plan: what would go, what stays, what is refused and why; and the model that it makes."""

import platform
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from mipp import graph, retrain, statistics, surgery, weights
from mipp.checks import checked
from mipp.errors import CalibrationError, InputError
from mipp.options import Outputs
from mipp.planning.composing import composed
from mipp.planning.model_outputs import answering, check_same_outputs
from mipp.planning.option_values import check_weight_refit, read_refit, recorded_refit
from mipp.problem import masks, refit_on_batches
from mipp.prunable import N_TRACED, example
from mipp.records import BoolArray, ChannelGraph, Cost, GroupSummary, Keep, Refusal
from mipp.report import Measured, plan_page, weights_page, write
from mipp.surgery.masks import LayerSummary, MaskRecord, Nonzeros, apply_masks, check_made_for
from mipp.tracing.guards import gradients_enabled

Model = TypeVar("Model", bound=nn.Module)


class _AnyPlan(Generic[Model]):
    """What plans of units and of single weights have in common."""

    record: Any
    model: Model | None
    batches: Sequence[statistics.Batch]
    seconds: Mapping[str, float] | None

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """What cannot be pruned, and why."""
        return self.record.refused

    def __str__(self) -> str:
        return "\n".join(self.record.describe())

    def to_json(self) -> str:
        """The plan as text; `from_json` reads it back."""
        return self.record.to_json()

    @checked
    def report(self, path: "str | Path", measured: "Measured | None" = None) -> None:
        """Writes one HTML file: what goes and what that loses, sizes, refusals, options.

        It is complete in itself, and drawn by Plotly, which the extra ``report`` brings.

        Args:
            path: of the file.
            measured: accuracy and latency, where they were measured; a plan measures none.

        Raises:
            InputError: Plotly is not installed.
            FileError: the file cannot be written.
        """
        versions = {"torch": torch.__version__, "Python": platform.python_version()}
        page = self._page(self.record, seconds=self.seconds, versions=versions, measured=measured)
        write(Path(path), page)

    @staticmethod
    def _page(record: Any, **more: Any) -> str:
        raise NotImplementedError

    def _model(self) -> Model:
        if self.model is None:
            raise InputError(
                "This plan was read without a model. Use "
                f"mipp.{type(self).__name__}.from_json(text, model)."
            )
        return self.model

    def _check_batches(self) -> None:
        """Raises `InputError` where a refit has no batches."""
        if not self.batches:
            raise InputError(
                "A refit needs calibration batches, and this plan has none. Read it with "
                f"mipp.{type(self).__name__}.from_json(text, model, batches), or call "
                "apply(refit=False)."
            )

    def _seed(self) -> int:
        seed = self.record.options.get("seed", 0)
        return seed if isinstance(seed, int) else 0


def _read_batches(
    model: nn.Module, batches: Iterable[Any] | None, options: Mapping[str, Any]
) -> list[statistics.Batch]:
    """The batches that a plan read from text is given, as many as it was made with."""
    samples = options.get("samples")
    if batches is None:
        return []
    return calibration(model, batches, samples if isinstance(samples, int) else None)


@dataclass(frozen=True, eq=False)
class Plan(_AnyPlan[Model]):
    """Which units stay. Nothing is changed until `apply`, and then only a copy.

    ``record`` is the plan as plain data. The model and the calibration batches that it was made
    with are held for `apply` and `mask`; a plan read with `from_json` takes them from the caller.
    Printed, it has a line for each group, the totals, and what is refused and why.
    ``seconds``: how long it took to ``capture`` (passes through the model) and ``plan`` (scoring
    and selection), and to ``train`` where the method does that. ``outputs``: as in
    `mipp.Options`.
    """

    record: surgery.PlanRecord
    model: Model | None = None
    traced: ChannelGraph | None = None
    batches: Sequence[statistics.Batch] = ()
    refit: surgery.Refit | None = None
    seconds: Mapping[str, float] | None = None
    outputs: Outputs | None = None

    @property
    def keep(self) -> Mapping[str, tuple[int, ...]]:
        """Group name -> indices of the units that stay, in the numbering of the model planned for.

        For a model that was pruned before, that is its own numbering: `then` leads back to the
        first model, and `mipp.original_indices` tells where the indices of a tensor come from.
        """
        return self.record.keep

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Names of the groups that have no unit left, which only ``min_units=0`` allows.

        `apply` then leaves one unit there with zero weights, in and out, since no layer runs
        without any channel: what it computes is what the group computes without units.
        """
        return self.record.collapsed

    @property
    def summary(self) -> tuple[GroupSummary, ...]:
        """Units, nats, MACs and parameters of each group, before and after."""
        return self.record.summary

    @property
    def before(self) -> Cost:
        """Cost of the whole model before pruning."""
        return self.record.before

    @property
    def after(self) -> Cost:
        """Cost of the whole model after pruning; units that stay for their shape alone are free."""
        return self.record.after

    @classmethod
    @gradients_enabled()
    def from_json(
        cls,
        text: str,
        model: Model | None = None,
        batches: Iterable[Any] | None = None,
        outputs: Outputs | None = None,
    ) -> "Plan[Model]":
        """Reads a plan. ``batches`` are needed only for `mask` and for a refit.

        ``outputs``: the function that the plan was made with, if there was one; needed with
        ``batches``.

        Raises:
            InputError: batches without ``outputs`` for a plan that was made with them, or the
                reverse.
            FileError: when the text is damaged.
            CalibrationError: when the batches cannot be used.
        """
        record = surgery.PlanRecord.from_json(text)
        refit = recorded_refit(record.options)
        if model is None:
            return cls(record)
        model = graph.unwrap(model)  # type: ignore[assignment] # of the model, or inside
        read = _read_batches(model, batches, record.options)
        traced = None
        if read:
            wider = {n: record.options.get(n) is True for n in ("head_dims", "residual")}
            args, kwargs = example(model, read)
            check_same_outputs(record.options.get("outputs"), outputs)
            seen = answering(model, outputs, (args, kwargs))
            with statistics.advised(model, read[0]):
                traced = graph.trace(seen, args, kwargs, **wider)
            traced = surgery.with_attention_scale(seen, traced, args, kwargs)
        return cls(record, model, traced, read, refit, outputs=outputs)

    @gradients_enabled()
    def apply(self, refit: "surgery.Refit | str | bool | None" = True) -> Model:
        """The smaller model: a new one, the original is untouched.

        ``refit``: True as planned, False to leave the weights that stay as they are, or a mode or a
        `mipp.Refit` record. A refit runs all calibration examples through the small model at once,
        and is not merged over processes.

        Raises:
            InputError: a plan without its model, or of another one; a refit without batches.
            SurgeryError: the model cannot be copied, or refitted weights are not finite.
        """
        model = self._model()
        small = surgery.apply_plan(model, self.record)
        if self.record.unsure:
            warnings.warn(_not_changed(self.record.unsure), stacklevel=3)
        config = self.refit if refit is True else read_refit(refit)
        if config is not None and self.record.axes:
            self._check_batches()
            assert self.traced is not None
            refit_on_batches(
                small, model, self.traced, self.record.kept(), self.batches, config, self._seed(),
                hold=lambda: surgery.zero_placeholders(small, self.record),
            )  # fmt: skip
        return small

    @gradients_enabled()
    def mask(self) -> Model:
        """A copy of the same size that computes what ``apply(refit=False)`` computes.

        Raises:
            InputError: a plan that was read without its model or without batches.
        """
        model = self._model()
        if self.traced is None:
            raise InputError(
                "A mask needs the traced model. Read the plan with "
                "mipp.Plan.from_json(text, model, batches)."
            )
        return surgery.mask_model(model, self.traced, self._keep())

    @gradients_enabled()
    @checked
    def remap(self, optimizer: torch.optim.Optimizer, small: nn.Module) -> torch.optim.Optimizer:
        """A new optimizer for the small model, with the state of what stays; the old is untouched.

        ``optimizer``: of the model that was planned for. ``small``: what `apply` gave; it may be
        wrapped by now, as DistributedDataParallel and `torch.compile` do.

        Raises:
            InputError: an optimizer of another model, or state that cannot be sliced (LBFGS).
        """
        aliases = self.traced.aliases if self.traced else {}
        return surgery.remap_optimizer(
            optimizer, self._model(), graph.unwrap(small), self.record.kept(), aliases
        )

    @gradients_enabled()
    @checked
    def then(self, later: "Plan[Model]") -> "Plan[Model]":
        """Both plans as one, for this plan's model and in its numbering.

        ``later``: made for the model that this plan's `apply` gave, retrained or not. The nats of
        two different networks do not add up, so the summary has none.

        Raises:
            InputError: a plan for another model, or without its model and batches.
        """
        if self.traced is None:
            raise InputError(
                "Plans are put together on the traced model. Read the first one with "
                "mipp.Plan.from_json(text, model, batches)."
            )
        seen = answering(self._model(), self.outputs)
        record = composed(seen, self.traced, self.record, later.record, self.batches)
        return Plan(
            record, self.model, self.traced, self.batches, later.refit, outputs=self.outputs
        )

    @staticmethod
    def _page(record: Any, **more: Any) -> str:
        return plan_page(record, **more)

    def _keep(self) -> Keep:
        assert self.traced is not None
        return masks(self.traced, self.keep)


def _not_changed(unsure: Mapping[str, int]) -> str:
    named = ", ".join(f"{name} = {value}" for name, value in unsure.items())
    return (
        f"{named}: as wide as something that was pruned, and left as it is, since the forward pass "
        "does not read it and what it counts is not known. Code that reads it, such as another "
        "forward for an export, may need the new width: set it on the pruned model."
    )


@dataclass(frozen=True, eq=False)
class WeightPlan(_AnyPlan[Model]):
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
    refit: "surgery.Refit | Literal['own'] | None" = None
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
        refit: surgery.Refit | Literal["own"] | None
        refit = "own" if own else recorded_refit(record.options)
        if model is not None:
            model = graph.unwrap(model)  # type: ignore[assignment] # of the model, or inside
            return cls(record, model, _read_batches(model, batches, record.options), refit)
        return cls(record, model, (), refit)

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
        config: surgery.Refit | Literal["own"] | None
        config = self.refit if refit is True else "own" if refit == "own" else read_refit(refit)
        check_weight_refit(config)
        if config == "own":
            return apply_masks(model, self.masks, self._own())
        copied = apply_masks(model, self.masks)
        if isinstance(config, surgery.Refit) and self.after.weights < self.before.weights:
            self._check_batches()
            args, kwargs = example(model, self.batches)
            found, _ = weights.find_layers(model, statistics.Batch(args, kwargs), self.batches)
            mine = [layer for layer in found if layer.name in self.masks]
            weights.update(
                copied, model, mine, self.masks, self.batches, config,
                self._seed(),
            )  # fmt: skip
        return copied

    def mask(self) -> Model:
        """A copy whose weights that go are zero and whose others are as they were."""
        return self.apply(refit=False)

    @staticmethod
    def _page(record: Any, **more: Any) -> str:
        return weights_page(record, **more)

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


def calibration(
    model: nn.Module | None, batches: Iterable[Any], samples: int | None
) -> list[statistics.Batch]:
    """`mipp.statistics.read_batches`, and what the model says to them where there is one.

    Batches of which the model takes no part, such as a dense adjacency matrix with its nodes, are
    marked as whole.

    Raises:
        CalibrationError: the model fails on the first batch.
        InputError: the model has no weights.
    """
    data = statistics.read_batches(batches, samples)
    if model is not None:
        statistics.check_call(model, data[0])
        data = statistics.agreed(model, data)
    if model is not None and any(parameter.is_meta for parameter in model.parameters()):
        raise InputError(
            f"{type(model).__name__} has parameters on the meta device, which have no values; "
            "weights were expected. Load them, or initialise them after model.to_empty(device=...)."
        )
    if model is None:
        return data
    statistics.check_images(model, data[0], partial(_fails, model))
    if not _fails(model, data[0].part(0, N_TRACED)):
        return data
    if why := _fails(model, data[0]):
        usual = (
            "Check that model(*args, **kwargs) runs in eval mode on what the batches hold: a "
            "tensor is the only argument, a dict has keyword arguments, of a pair the first is "
            "the input."
        )
        raise CalibrationError(
            f"{type(model).__name__} fails on the first calibration batch: {why}. "
            f"{statistics.advice(data[0]) or usual}"
        )
    return [replace(batch, whole=True) for batch in data]


def _fails(model: nn.Module, batch: statistics.Batch) -> str:
    """Why the model fails on a batch, empty if it does not."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    moved = batch.to(device)
    return surgery.failure(model, moved.args, moved.kwargs)
