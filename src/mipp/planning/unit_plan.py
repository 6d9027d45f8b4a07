"""A plan of units: what goes, what stays, what is refused and why; and applying it."""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import nn

from mipp import graph, processes, statistics, surgery
from mipp.checks import checked
from mipp.errors import InputError
from mipp.options import Progress
from mipp.planning.any_plan import AnyPlan, Model
from mipp.planning.model_outputs import answering
from mipp.planning.option_values import read_refit
from mipp.planning.plan_figures import unit_metrics
from mipp.planning.plan_record import composed
from mipp.problem import Noted, masks, refit_on_batches
from mipp.progress import following
from mipp.prunable import example
from mipp.records import ChannelGraph, Cost, GroupSummary, Keep
from mipp.report import plan_notebook, plan_page
from mipp.retrain import AnyStep
from mipp.tracing.guards import gradients_enabled


@dataclass(frozen=True, eq=False)
class Plan(AnyPlan[Model, GroupSummary, Cost]):
    """Which units stay. Nothing is changed until `apply`, and then only a copy.

    A plan keeps the model and the calibration batches that it was made with, for `apply` and
    `mask`; one that is read with `from_json` takes them from the caller. Printed, it has a line for
    each group, the totals, and what is refused and why.

    Attributes:
        record: the plan as plain data.
        model: that the plan is for; None if it was read without.
        batches: calibration batches, for a refit.
        refit: how the remaining weights take over; None for not at all.
        seconds: how long it took to ``capture`` (passes through the model) and ``plan`` (scoring
            and selection), and to ``train`` where the method does that.
        outputs: as in `mipp.Options`.
        traced: groups of channels of the model; None if it was read without batches.
        noted: what the model gave while it was measured, for the refit; without it, or after a
            change of the model, the refit runs the model once more.

    Examples:
        >>> import torch
        >>> import mipp
        >>> _ = torch.manual_seed(0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> batches = [torch.randn(64, 4)]
        >>> plan = mipp.plan(net, batches, "units=50%")
        >>> plan.before.units, plan.after.units, plan.refused[0].reason
        (8, 4, "it is part of the model's output")
        >>> mipp.Plan.from_json(plan.to_json(), net).keep == plan.keep
        True
    """

    record: surgery.PlanRecord
    refit: surgery.Refit | None = None
    traced: ChannelGraph | None = None
    noted: Noted | None = None
    _read_record = surgery.PlanRecord.from_json
    _page = staticmethod(plan_page)
    _notebook = staticmethod(plan_notebook)
    _figures = staticmethod(unit_metrics)

    @property
    def keep(self) -> Mapping[str, tuple[int, ...]]:
        """Group name -> indices of the units that stay, in the numbering of the model planned for.

        For a model that was pruned before, that is its own numbering: `then` leads back to the
        first model, and `mipp.original_indices` says where the indices of a tensor come from.
        """
        return self.record.keep

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """Group name -> number of units before and after, from the outputs to the inputs.

        Examples:
            >>> import torch
            >>> import mipp
            >>> _ = torch.manual_seed(0)
            >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            >>> mipp.plan(net, [torch.randn(64, 4)], "units=50%").widths
            {'0': (8, 4)}
        """
        return {row.name: (row.units_before, row.units_after) for row in self.summary}

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Names of the groups that have no unit left, which only ``min_units=0`` allows.

        `apply` then leaves one unit there with zero weights, in and out, since no layer runs
        without any channel: what it computes is what the group computes without units.
        """
        return self.record.collapsed

    def _traced_again(self) -> Self:
        if self.model is None or not self.batches:
            return self
        self._check_outputs()
        wider = {n: self.record.options.get(n) is True for n in ("head_dims", "residual")}
        args, kwargs = example(self.model, self.batches)
        seen = answering(self.model, self.outputs, (args, kwargs))
        with statistics.advised(self.model, self.batches[0]):
            traced = graph.trace(seen, args, kwargs, **wider)
        return replace(self, traced=surgery.with_attention_scale(seen, traced, args, kwargs))

    def _applied(
        self,
        model: Model,
        refit: "surgery.Refit | str | bool | None",
        progress: Progress | bool | None,
        batches: Sequence[statistics.Batch] | None = None,
    ) -> Model:
        small = surgery.apply_plan(model, self.record)
        if self.record.unsure:
            warnings.warn(_not_changed(self.record.unsure), stacklevel=4)
        config = self.refit if refit is True else read_refit(refit)
        if config is not None and self.record.axes:
            self._check_batches()
            assert self.traced is not None
            noted = self.noted if batches is None else None  # notes are of all batches
            notes = None if noted is None else noted.get(config)
            n_layers = len({consumer.weight for consumer in self.traced.consumers})
            fitted = itertools.count(1)
            with following(progress) as report, processes.together(model):

                def after_fit() -> None:
                    surgery.zero_placeholders(small, self.record)
                    report("refit", next(fitted), n_layers)

                refit_on_batches(
                    small, model, self.traced, self.record.kept(), batches or self.batches, config,
                    self._seed(), after_fit, notes, self._memory(),
                )  # fmt: skip
                report("refit", n_layers, n_layers)
        return small

    def _step(self, small: nn.Module) -> AnyStep | None:
        """A step that keeps units at zero that stay for their shape alone."""
        if not self.record.zeroed:
            return None

        def step(optimizer: torch.optim.Optimizer) -> None:
            optimizer.step()
            surgery.zero_placeholders(small, self.record)

        return step

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

        Args:
            optimizer: of the model that was planned for.
            small: what `apply` returned; it may be wrapped by now, as DistributedDataParallel and
                `torch.compile` do.

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
        """Combines two plans into one, for this plan's model and in its numbering.

        The nats of two different networks do not add up, so the summary has none.

        Args:
            later: made for the model that this plan's `apply` returned, retrained or not.

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
        return replace(self, record=record, refit=later.refit, seconds=None, noted=None)

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
