"""What plans of units, of blocks and of single weights have in common."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from torch import nn

from mipp import graph, statistics, tuning
from mipp.checks import checked
from mipp.errors import InputError
from mipp.options import Outputs, Progress
from mipp.origin import Applied, note_plans, plans_of
from mipp.planning.plan_figures import dataframe
from mipp.planning.tune import tune_read
from mipp.problem import calibration
from mipp.records import Refusal
from mipp.report import Measured, write
from mipp.retrain import AnyStep

if TYPE_CHECKING:
    from pandas import DataFrame

Model = TypeVar("Model", bound=nn.Module)


class AnyPlan(Generic[Model]):
    """Common base of the plans of units, of blocks and of single weights."""

    record: Any
    model: Model | None
    batches: Sequence[statistics.Batch]
    seconds: Mapping[str, float] | None
    outputs: Outputs | None
    _page: ClassVar[Callable[..., str]]
    _notebook: ClassVar[Callable[..., str]]
    _figures: ClassVar[Callable[..., dict[str, float]]]

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

    @checked
    def report(
        self,
        path: "str | Path",
        measured: "Measured | None" = None,
        *,
        name: str | None = None,
        others: "Sequence[AnyPlan[Model]]" = (),
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
            InputError: Plotly is not installed, or a name that ends in neither ``.html`` nor
                ``.htm``.
            FileError: the file cannot be written.
        """
        known = type(self.model).__name__ if name is None and self.model is not None else name or ""
        more = {"others": [other.record for other in others]} if others else {}
        page = self._page(self.record, name=known, seconds=self.seconds, measured=measured, **more)
        write(Path(path), page)

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

    def tune(
        self,
        small: nn.Module,
        settings: tuning.Tune | bool = True,
        *,
        progress: Progress | bool | None = None,
    ) -> tuning.Tuned:
        """Tunes what `apply` returned, in place, on the model and the batches of the plan.

        This is what ``apply(tune=...)`` does, too; here you get what came of it. See `mipp.tune`.

        Args:
            small: what `apply` returned.
            settings: how to tune; True for the defaults.
            progress: as in `mipp.plan`; the only stage is ``tune`` (steps).

        Raises:
            InputError: a plan without its model, or without batches.
            MippError: as `mipp.tune` does.

        Examples:
            >>> import torch
            >>> import mipp
            >>> _ = torch.manual_seed(0)
            >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
            >>> plan = mipp.plan(net, [torch.randn(64, 4)], "units=50%")
            >>> small = plan.apply(refit=False)
            >>> plan.tune(small, mipp.Tune(passes=2)).better
            True
        """
        small = graph.unwrap(small)
        if not self.batches:
            raise InputError(
                "Tuning needs calibration batches, and this plan has none. Read it with "
                f"mipp.{type(self).__name__}.from_json(text, model, batches), or leave tune= out."
            )
        recorded = self.record.options.get("outputs")
        if recorded is not None and self.outputs is None:
            raise InputError(
                f"the plan was made for the outputs that {recorded} picks, and is read without it. "
                "Apply it without tune=, and call mipp.tune(small, model, batches, outputs=...)."
            )
        return tune_read(
            small, self._model(), self.batches, tuning.read_tune(settings) or tuning.Tune(),
            self.outputs, self._memory(), self._step(small), self._seed(), progress,
        )  # fmt: skip

    def _step(self, small: nn.Module) -> AnyStep | None:
        """In place of ``optimizer.step()``, to keep what has to be zero; None for nothing."""
        raise NotImplementedError

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


def read_batches_of(
    model: nn.Module, batches: Iterable[Any] | None, options: Mapping[str, Any]
) -> list[statistics.Batch]:
    """The batches given for a plan that is read from text, as many as it was made with."""
    samples = options.get("samples")
    if batches is None:
        return []
    return calibration(model, batches, samples if isinstance(samples, int) else None)
