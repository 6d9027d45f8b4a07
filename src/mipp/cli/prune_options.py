"""What the options of ``mipp prune`` say together, and which of them do not agree."""

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import typer

from mipp.cli import names
from mipp.errors import InputError

if TYPE_CHECKING:
    from mipp import latency, retrain, selection, tuning
    from mipp.cli.model_names import Network
    from mipp.cli.opening import Subject


def check_trainable(subject: "Subject", retraining: int, train_by: "retrain.Recipe | None") -> None:
    """Refuses a training of what has no labels to learn from."""
    if retraining:
        subject.check_trainable("--retrain")
    if train_by is not None:
        subject.check_trainable("--method")


def check_says_how_much(granularity: str, *given: object) -> None:
    """Refuses options that say neither how much may be left nor when to stop."""
    if granularity in ("unit", "block", "weight") and all(value is None for value in given):
        raise typer.BadParameter(
            "say how much may be left (--budget macs=50%; of single weights --budget params=10%), "
            "or when to stop (--confidence 0.95 or --preset paper).",
            param_hint="--budget",
        )


def check_agree(
    refit: str | None, no_refit: bool, retraining: int, retrain_lr: float | None, distill: float
) -> None:
    """Refuses options that contradict each other or change nothing."""
    if no_refit and refit not in (None, "none"):
        raise InputError(f"--refit {refit} and --no-refit were both given; give one of them.")
    if (retrain_lr is not None or distill) and not retraining:
        raise InputError("--retrain-lr and --distill need --retrain EPOCHS.")


def tuning_of(
    minutes: float | None, augment: 'Literal["flip-shift"] | None', *, wanted: bool
) -> "tuning.Tune | None":
    """How to tune; None for not at all."""
    from mipp import tuning

    if not wanted and (minutes is not None or augment is not None):
        raise InputError("--tune-minutes and --tune-augment need --tune.")
    return tuning.Tune(minutes=minutes, augment=augment) if wanted else None


def latency_of(
    budget: "selection.Budget | None",
    runtime: 'Literal["torch", "onnxruntime"] | None',
    batch: int | None,
    device: str,
) -> "dict[str, latency.Latency]":
    """How a budget of latency is measured, as an option; none where that was left open."""
    from mipp import latency

    given = {"runtime": runtime, "batch": batch}
    said: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if said and (budget is None or "latency" not in budget.bounds):
        raise InputError(
            f"{' and '.join(f'--latency-{name}' for name in said)} can only be given with a budget "
            "of latency, such as --budget latency=50%."
        )
    if runtime == "onnxruntime":
        from mipp.export.onnx_file import check_installed

        check_installed()
        if device != "cpu":
            raise InputError(
                f"--latency-runtime onnxruntime runs on the CPU, and --device {device} was given. "
                "Leave one of them out."
            )
    return {"latency": latency.Latency(**said)} if said else {}


def check_preset(preset: str | None, granularity: str) -> None:
    """Refuses a preset of units for anything else."""
    if preset is not None and granularity != "unit":
        raise InputError(
            f"--preset {preset} was given with --granularity {granularity}; it is for units. "
            "Leave one of the two out."
        )


def training_of(
    options: dict[str, Any], network: "Network", train_epochs: int | None
) -> "retrain.Recipe | None":
    """The recipe of methods that train, None for the others."""
    if options.get("method") in names.TRAINING_METHODS:
        return replace(network.recipe, epochs=train_epochs or network.recipe.epochs)
    if train_epochs is not None:
        methods = " or ".join(names.TRAINING_METHODS)
        raise InputError(
            f"--train-epochs {train_epochs} needs --method {methods}, which train; --retrain "
            "EPOCHS is for what comes after pruning."
        )
    return None


def read_options(options: dict[str, Any], no_refit: bool) -> dict[str, Any]:
    """Those that were given, as `mipp.plan` takes them."""
    from mipp.cli.own_code import find

    given = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    if no_refit:
        given["refit"] = "none"
    if "noise" in given:
        with suppress(ValueError):
            given["noise"] = float(given["noise"])
    if "outputs" in given:
        given["outputs"] = find(given["outputs"], "--outputs")
    return given
