"""The clock of whole models: a pass in PyTorch, in ONNX Runtime, or where the caller runs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from mipp import latency, statistics
from mipp.checks import shown
from mipp.errors import InputError
from mipp.planning.model_outputs import function_name
from mipp.records import FloatArray
from mipp.tracing.guards import duplicate, measuring

FEWEST = 25
"""Runs of a whole model at least: five for each part of `mipp.latency.scatter`."""


@dataclass(frozen=True)
class Timed:
    """How long a model takes.

    Attributes:
        ms: milliseconds.
        scatter: how far repeated measurements lie apart (ms).
    """

    ms: float
    scatter: float


class Clock:
    """Times smaller models in turns with the whole one, where the settings say.

    Args:
        model: the whole model.
        batch: whose examples a pass has, repeated from the start where they are too few; all of
            them, where it cannot be divided.
        settings: how it is measured.

    Attributes:
        settings: how it is measured.
        device: of the model.
        example: what a pass gets.
        full: time of the whole model; whoever makes the clock sets it.
    """

    full: Timed

    def __init__(
        self, model: nn.Module, batch: statistics.Batch, settings: latency.Latency
    ) -> None:
        self.settings, self._model = settings, model
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.example = batch.at(torch.arange(settings.batch) % len(batch)).to(self.device)
        with measuring(model):
            self._whole = ready(model, self.example, settings)

    def runs(self, models: Sequence[nn.Module]) -> list[FloatArray]:
        """Milliseconds of every run, of the whole model first; models are in eval mode."""
        with measuring(self._model):
            works = [self._whole, *(ready(one, self.example, self.settings) for one in models)]
            seconds = self.settings.model_seconds * len(works)
            return self.settings.stopwatch(
                works, seconds=seconds, fewest=FEWEST, device=self.device
            )

    def time(self, small: nn.Module) -> Timed:
        """The time of a smaller model, by its ratio to the whole one."""
        with measuring(small):
            whole, mine = self.runs([small])
        ratio = float(np.median(mine) / np.median(whole))
        return Timed(ratio * self.full.ms, latency.scatter(mine, whole) * self.full.ms)

    def describe(self, checked: Timed) -> dict[str, Any]:
        """How it was measured, as plain values; ``checked`` is the time of the small model."""
        found = {
            "batch": len(self.example),
            "runtime": name_of(self.settings),
            "scatter_ms": [self.full.scatter, checked.scatter],
        }
        if isinstance(self.settings.runtime, str):  # where a function runs it is not known
            found |= {"device": str(self.device), "threads": torch.get_num_threads()}
        return found


def ready(model: nn.Module, example: statistics.Batch, settings: latency.Latency) -> latency.Work:
    """One forward pass of the model on the example, in the runtime of the settings.

    Raises:
        InputError: For a runtime that cannot run it here.
        SurgeryError: For a model that cannot be exported.
    """
    args, kwargs, runtime = example.args, dict(example.kwargs), settings.runtime
    if runtime == "torch":
        return lambda: model(*args, **kwargs)
    if runtime == "onnxruntime":
        return _in_onnxruntime(model, example)
    assert isinstance(runtime, latency.Runtime)
    with measuring(model):
        mine = duplicate(model)  # a function may change it, such as its device
    work = runtime(mine, *args, **kwargs)
    if not callable(work):
        raise InputError(
            f"Latency(runtime={name_of(settings)}) returned {shown(work)} for a model; expected "
            "a function without arguments that runs it, to be timed."
        )
    return work


def ready_layer(layer: latency.LayerRun, settings: latency.Latency) -> latency.Work:
    """A layer in the runtime of the settings; in PyTorch for functions, which may take long."""
    if settings.runtime != "onnxruntime":
        return layer
    from mipp.export.onnx_layers import onnx_layer  # noqa: PLC0415 - only this runtime needs it

    return onnx_layer(layer)


def name_of(settings: latency.Latency) -> str:
    """The runtime's name, of a function with its module."""
    runtime = settings.runtime
    return runtime if isinstance(runtime, str) else function_name(runtime)


def _in_onnxruntime(model: nn.Module, example: statistics.Batch) -> latency.Work:
    from mipp.export.onnx_file import onnx_work  # noqa: PLC0415 - only this runtime needs it

    elsewhere = {tensor.device.type for tensor in example.tensors()} - {"cpu"}
    if elsewhere:
        raise InputError(
            "Latency(runtime='onnxruntime') runs models on the CPU, and this one is on "
            f"{', '.join(elsewhere)}. Move it with model.cpu(), or give a function for runtime=."
        )
    return onnx_work(model, example)
