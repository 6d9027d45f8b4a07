"""Figures of plans and of retraining for TensorBoard, MLflow and W&B, by their own loggers.

Examples:
    >>> from mipp.integrations import loggers
    >>> from torch.utils.tensorboard import SummaryWriter  # doctest: +SKIP
    >>> sink = loggers.tensorboard(SummaryWriter("runs/small"))  # doctest: +SKIP
    >>> sink.log_plan(plan)  # doctest: +SKIP
    >>> mipp.retrain.train(small, batches, recipe, on_epoch=sink.log_epoch)  # doctest: +SKIP
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, final

from mipp.errors import InputError
from mipp.planning import BlockPlan, Plan, WeightPlan
from mipp.retrain import EpochRecord

PLAN, TEXT = "plan", "plan.txt"
_REFUSED_BY_MLFLOW = re.compile(r"[^\w\-./ ]")


@dataclass(frozen=True)
class Sink(ABC):
    """Where figures go.

    Attributes:
        prefix: before all names, such as ``mipp`` in ``mipp/plan/macs/left``.
    """

    prefix: str

    def log_plan(self, plan: "Plan[Any] | WeightPlan[Any] | BlockPlan[Any]", step: int = 0) -> None:
        """Logs ``plan.metrics()`` and the printed plan, under ``plan``.

        Args:
            plan: of units or of single weights.
            step: of the logger; for plans in rounds, say, the number of the round.
        """
        self.write({f"{PLAN}/{name}": value for name, value in plan.metrics().items()}, step)
        self.write_text(f"{self.prefix}/{TEXT}", str(plan), step)

    def log_epoch(self, record: EpochRecord) -> None:
        """Logs the figures of one epoch, under ``retrain``; for ``on_epoch`` of `retrain.train`."""
        found = record.metrics().items()
        self.write({f"retrain/{name}": value for name, value in found}, record.epoch)

    def write(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs numbers by name, with the prefix before each."""
        self._write({f"{self.prefix}/{name}": value for name, value in metrics.items()}, step)

    @abstractmethod
    def _write(self, metrics: Mapping[str, float], step: int) -> None:
        """Hands the numbers on."""

    @abstractmethod
    def write_text(self, name: str, text: str, step: int) -> None:
        """Logs a text."""


def tensorboard(writer: Any, prefix: str = "mipp") -> Sink:
    """A sink for a ``torch.utils.tensorboard.SummaryWriter``; closing it is the caller's.

    Args:
        writer: a `SummaryWriter`, or what has its ``add_scalar`` and ``add_text``, as the
            ``experiment`` of Lightning's ``TensorBoardLogger``.
        prefix: before all names.

    Raises:
        InputError: something else was given.
    """
    if not (hasattr(writer, "add_scalar") and hasattr(writer, "add_text")):
        raise InputError(
            f"tensorboard({type(writer).__name__}) was given; expected a SummaryWriter of "
            "torch.utils.tensorboard, which needs pip install tensorboard."
        )
    return _TensorBoard(prefix, writer)


def mlflow(run_id: str | None = None, prefix: str = "mipp") -> Sink:
    """A sink for MLflow, of a run that is there.

    Args:
        run_id: of the run; None for the active one.
        prefix: before all names.

    Raises:
        InputError: MLflow is not installed, or no run is active.
    """
    package = _package("mlflow")
    active = package.active_run()
    if run_id is None and active is None:
        raise InputError(
            "mlflow() was called without a run; expected one that is active, or run_id=. Start "
            "one with mlflow.start_run()."
        )
    return _MLflow(prefix, package.MlflowClient(), run_id or active.info.run_id)


def wandb(run: Any = None, prefix: str = "mipp") -> Sink:
    """A sink for Weights & Biases.

    Args:
        run: what ``wandb.init`` returned; None for the run of this process.
        prefix: before all names.

    Raises:
        InputError: wandb is not installed, or there is no run.
    """
    found = _package("wandb").run if run is None else run
    if not (hasattr(found, "log") and hasattr(found, "summary")):
        raise InputError(
            f"wandb({'' if run is None else type(run).__name__}) found no run; expected what "
            "wandb.init returns. Call wandb.init(project=...) before, and wandb.finish() after."
        )
    return _WandB(prefix, found)


@final
@dataclass(frozen=True)
class _TensorBoard(Sink):
    """By a ``SummaryWriter``."""

    writer: Any

    def _write(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def write_text(self, name: str, text: str, step: int) -> None:
        """The text with its lines as they are."""
        self.writer.add_text(name, f"```\n{text}\n```", step)


@final
@dataclass(frozen=True)
class _MLflow(Sink):
    """By a client of MLflow; in names a character that it refuses becomes ``_``."""

    client: Any
    run_id: str

    def _write(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.client.log_metric(self.run_id, _REFUSED_BY_MLFLOW.sub("_", name), value, step=step)

    def write_text(self, name: str, text: str, step: int) -> None:  # noqa: ARG002
        """The text as an artifact, of which there is one by each name."""
        self.client.log_text(self.run_id, text, name)


@final
@dataclass(frozen=True)
class _WandB(Sink):
    """By a run of W&B, with a step of each family of figures, since its own only rises."""

    run: Any

    def _write(self, metrics: Mapping[str, float], step: int) -> None:
        families = dict.fromkeys("/".join(name.split("/")[:2]) for name in metrics)
        for family in families:
            self.run.define_metric(f"{family}/*", step_metric=f"{family}/step")
        steps = {f"{family}/step": step for family in families}
        self.run.log({**metrics, **steps})

    def write_text(self, name: str, text: str, step: int) -> None:  # noqa: ARG002
        """The text in the summary of the run."""
        self.run.summary[name] = text


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(
            f"loggers.{name} needs the package {name}, which cannot be imported ({error}). Install "
            f"it: pip install {name}."
        ) from error
