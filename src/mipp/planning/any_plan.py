"""What plans of units, of blocks and of single weights have in common."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

from torch import nn

from mipp import graph, processes, statistics, surgery, tuning
from mipp.checks import checked
from mipp.errors import InputError
from mipp.options import Outputs, Progress
from mipp.origin import Applied, note_plans, plans_of
from mipp.planning.model_outputs import check_same_outputs
from mipp.planning.option_values import read_refit, recorded_refit
from mipp.planning.plan_figures import dataframe
from mipp.planning.tuned import Tuning
from mipp.problem import calibration
from mipp.records import Refusal
from mipp.report import Measured, write
from mipp.retrain import AnyStep
from mipp.tracing.guards import gradients_enabled

if TYPE_CHECKING:
    from pandas import DataFrame

Model = TypeVar("Model", bound=nn.Module)
Row = TypeVar("Row")
"""What a plan does to one group, block or layer."""
Total = TypeVar("Total")
"""What the whole model costs."""


@dataclass(frozen=True, eq=False)
class AnyPlan(Generic[Model, Row, Total]):
    """Common base of the plans of units, of blocks and of single weights.

    Attributes:
        record: the plan as plain data.
        model: that the plan is for; None if it was read without.
        batches: calibration batches, for a refit.
        refit: how the remaining weights take over; None for not at all.
        seconds: how long each stage took.
        outputs: as in the options.
    """

    record: Any
    model: Model | None = None
    batches: Sequence[statistics.Batch] = ()
    refit: "surgery.Refit | Literal['own'] | None" = None
    seconds: Mapping[str, float] | None = None
    outputs: Outputs | None = None
    _read_record: ClassVar[Callable[..., Any]]
    _read_refit: ClassVar[Callable[..., Any]] = staticmethod(recorded_refit)
    _page: ClassVar[Callable[..., str]]
    _notebook: ClassVar[Callable[..., str]]
    _figures: ClassVar[Callable[..., dict[str, float]]]

    @property
    def summary(self) -> tuple[Row, ...]:
        """What happens to each group, block or layer: its nats, and what it costs."""
        return self.record.summary

    @property
    def before(self) -> Total:
        """Cost of the whole model before pruning.

        In a plan of blocks its units are the blocks that can be taken out. In one of single weights
        it counts the weights and parameters that are not zero.
        """
        return self.record.before

    @property
    def after(self) -> Total:
        """The same after pruning; units that stay for their shape alone are free."""
        return self.record.after

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Groups and layers that cannot be pruned, and why."""
        return self.record.refused

    def __str__(self) -> str:
        return "\n".join(self.record.describe())

    def _repr_html_(self) -> str:
        """What notebooks show: the cost before and after, the groups, and what is refused."""
        return self._notebook(self.record)

    def metrics(self) -> dict[str, float]:
        """The plan's figures as one flat dict, for loggers.

        ``macs/before``, ``macs/after`` and ``macs/left`` (a share), the same of ``params``,
        ``units`` and ``latency_ms`` (of single weights: ``weights`` and ``params``);
        ``information/left``, and for each group ``information/NAME``, where the method measures
        nats; ``width/NAME`` and ``kept/NAME`` for each group, ``density/NAME`` for each layer. Of
        blocks ``nats/lost``, and ``nats/NAME`` (lost with it alone) and ``kept/NAME`` for each.
        `mipp.integrations.loggers` sends them to TensorBoard, MLflow and W&B.
        """
        return self._figures(self.record)

    def to_dataframe(self) -> "DataFrame":
        """A table of pandas with a row for each group or layer, by name.

        Its columns are the fields of `summary`.

        Raises:
            InputError: pandas is not installed.
        """
        return dataframe(self.record.summary)

    def to_json(self) -> str:
        """The plan as text; `from_json` reads it back."""
        return self.record.to_json()

    @classmethod
    @gradients_enabled()
    def from_json(
        cls,
        text: str,
        model: Model | None = None,
        batches: Iterable[Any] | None = None,
        outputs: Outputs | None = None,
    ) -> Self:
        """Reads a plan.

        Args:
            text: as `to_json` wrote it.
            model: that the plan was made for; needed for `apply`.
            batches: calibration batches; needed for a refit, for tuning and for `Plan.mask`.
            outputs: the function that the plan was made with, if there was one; a plan of units
                needs it with ``batches``, the others to tune.

        Raises:
            InputError: batches for a plan of units without the ``outputs`` that it was made with,
                or with some where there were none.
            FileError: when the text is damaged.
            CalibrationError: when the batches cannot be used.
        """
        record = cls._read_record(text)
        refit = cls._read_refit(record.options)
        if model is None:
            return cls(record, refit=refit)
        own: Model = graph.unwrap(model)  # type: ignore[assignment] # of the model, or inside
        samples = record.options.get("samples")
        wanted = samples if isinstance(samples, int) else None
        read = [] if batches is None else calibration(own, batches, wanted)
        plan = cls(record, own, read, refit, outputs=outputs)
        return plan._traced_again()

    def _traced_again(self) -> Self:
        """With what a plan that was read from text has to find in its model."""
        return self

    @gradients_enabled()
    def apply(
        self,
        refit: "surgery.Refit | str | bool | None" = True,
        *,
        tune: "tuning.Tune | bool" = False,
        progress: Progress | bool | None = None,
    ) -> Model:
        """The pruned model: a new one, an ordinary module; the original is untouched.

        It is smaller without units or blocks; in place of single weights it has zeros.

        A refit runs all calibration examples through the new model. Under ``torch.distributed``
        all processes fit together, each with its own batches, and all have to call this.

        Args:
            refit: True as planned, False to leave the weights that stay as they are, or a mode or a
                `mipp.Refit` record. For single weights also ``"own"``, the weights that the method
                gives.
            tune: True, or a `mipp.Tune` record, to tune the new model on the calibration examples
                afterwards, without labels; zeros stay zero. `mipp.tune` says how, and `apply_tuned`
                what came of it.
            progress: as in `mipp.plan`; stages are ``refit`` (layers) and ``tune`` (steps).

        Raises:
            InputError: a plan without its model, or of another one; a refit or tuning without
                batches.
            SurgeryError: the model cannot be copied, or refitted weights are not finite.
            MippError: as `mipp.tune` does.
        """
        settings = tuning.read_tune(tune)
        if settings is not None:
            return self.apply_tuned(settings, refit, progress=progress)[0]
        model = self._model()
        small = self._applied(model, refit, progress)
        self._note(model, small)
        return small

    @gradients_enabled()
    def apply_tuned(
        self,
        settings: tuning.Tune | bool = True,
        refit: "surgery.Refit | str | bool | None" = True,
        *,
        progress: Progress | bool | None = None,
    ) -> tuple[Model, tuning.Tuned]:
        """What ``apply(tune=...)`` gives, and what came of tuning. See `mipp.tune`.

        A refit comes nearer to the original on examples that it has seen than on others; where a
        layer has more inputs than there are rows, it leaves no difference there. So the examples
        that tuning holds out, and that decide, are left out of the refit, too. Where tuning has
        brought such a model closer, the refit on all examples is tuned in the same way, on all
        examples and to the end. Where it has not, the model is what `apply` gives without tuning.
        ``minutes=`` is the time of both together.

        Args:
            settings: how to tune; True for the defaults.
            refit: as in `apply`.
            progress: as in `apply`.

        Raises:
            InputError: a plan without its model, or without batches.
            MippError: as `apply` and `mipp.tune` do.

        Examples:
            >>> import torch
            >>> import mipp
            >>> _ = torch.manual_seed(0)
            >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            >>> plan = mipp.plan(net, [torch.randn(64, 4)], "units=50%")
            >>> small, tuned = plan.apply_tuned(mipp.Tune(passes=2), refit=False)
            >>> tuned.better, small[0].out_features
            (True, 4)
        """
        model, chosen = self._model(), tuning.read_tune(settings) or tuning.Tune()
        self._check_batches("Tuning", "leave tune= out")
        self._check_outputs()
        seed, memory = self._seed(), self._memory()
        wanted = self.refit if refit is True else refit
        fits = wanted != "own" and read_refit(wanted) is not None
        if fits and chosen.minutes is not None:
            chosen = replace(chosen, minutes=chosen.minutes / 2)
        todo = Tuning(model, self.batches, chosen, self.outputs, memory, seed, progress)
        with processes.together(model):
            part = tuning.examples_of(self.batches, chosen, seed).trained_batches()
            small = self._applied(model, refit, progress, part)
            tuned, course = todo.tune(small, self._step(small))
            if fits:
                full = self._applied(model, refit, progress)
                if tuned.better:
                    tuned = todo.tune_on_all(full, self._step(full), tuned, course)
                if tuned.on_all or not tuned.better:
                    small = full
        self._note(model, small)
        return small, tuned

    def _applied(
        self,
        model: Model,
        refit: "surgery.Refit | str | bool | None",
        progress: Progress | bool | None,
        batches: Sequence[statistics.Batch] | None = None,
    ) -> Model:
        """The pruned model, refitted on these batches, or on those of the plan."""
        raise NotImplementedError

    @checked
    def report(
        self,
        path: "str | Path",
        measured: "Measured | None" = None,
        *,
        name: str | None = None,
        others: "Sequence[AnyPlan[Model, Any, Any]]" = (),
    ) -> None:
        """Writes one HTML file: what goes and what that loses, sizes, refusals, options.

        It is complete in itself, and drawn by Plotly, which the extra ``report`` brings.

        Args:
            path: of the file.
            measured: accuracy and latency, where they were measured; a plan measures none.
            name: of the model, for the title; its class by default.
            others: plans of units for other budgets, as `mipp.plans` makes them; the page then has
                the frontier of information against cost.

        Raises:
            InputError: Plotly is not installed, a name that ends in neither ``.html`` nor ``.htm``,
                or ``others`` with a plan that is not of units.
            FileError: the file cannot be written.
        """
        records = [plan.record for plan in (self, *others)]
        if others and not all(isinstance(record, surgery.PlanRecord) for record in records):
            raise InputError(
                "others= was given with a plan of blocks or of single weights; expected plans of "
                "units, which alone have a frontier of information against cost. Leave it out."
            )
        known = type(self.model).__name__ if name is None and self.model is not None else name or ""
        more = {"others": records[1:]} if others else {}
        page = self._page(self.record, name=known, seconds=self.seconds, measured=measured, **more)
        write(Path(path), page)

    def _model(self) -> Model:
        if self.model is None:
            raise InputError(
                "This plan was read without a model. Use "
                f"mipp.{type(self).__name__}.from_json(text, model)."
            )
        return self.model

    def _check_batches(self, what: str = "A refit", other: str = "call apply(refit=False)") -> None:
        """Raises `InputError` where what needs batches has none; ``other``: what else to do."""
        if not self.batches:
            raise InputError(
                f"{what} needs calibration batches, and this plan has none. Read it with "
                f"mipp.{type(self).__name__}.from_json(text, model, batches), or {other}."
            )

    def _check_outputs(self) -> None:
        """Raises `InputError` without the function that picks the outputs of the plan."""
        check_same_outputs(self.record.options.get("outputs"), self.outputs, type(self).__name__)

    def _step(self, small: nn.Module) -> AnyStep | None:  # noqa: ARG002 - of those that hold zeros
        """In place of ``optimizer.step()``, to keep what has to be zero; None for nothing."""
        return None

    def _note(self, model: nn.Module, small: nn.Module) -> None:
        """Notes this plan on the small model, after those that the model has."""
        options = self.record.options
        applied = Applied(
            str(options.get("method")), options.get("budget"),
            asdict(self.record.before), asdict(self.record.after),
        )  # fmt: skip
        note_plans(small, (*plans_of(model), applied))

    def _memory(self) -> float:
        memory = self.record.options.get("memory")
        return memory if isinstance(memory, int) else math.inf

    def _seed(self) -> int:
        seed = self.record.options.get("seed", 0)
        return seed if isinstance(seed, int) else 0
