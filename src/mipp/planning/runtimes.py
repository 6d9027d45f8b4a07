"""What is timed of a model: a pass in PyTorch, in ONNX Runtime, or where the caller runs it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mipp import latency, statistics
from mipp.checks import shown
from mipp.errors import InputError
from mipp.planning.model_outputs import function_name
from mipp.tracing.guards import duplicate, measuring


def example_for(
    batch: statistics.Batch, settings: latency.Latency, device: torch.device
) -> statistics.Batch:
    """What a pass is timed with: so many examples, repeated from the start where there are fewer.

    Raises:
        InputError: For a batch that cannot be divided and has another number.
    """
    chosen = batch.at(torch.arange(settings.batch) % len(batch)).to(device)
    if len(chosen) != settings.batch:
        raise InputError(
            f"Latency(batch={settings.batch}) was asked for, and the first calibration batch has "
            f"{len(chosen)} examples and cannot be divided. Give Latency(batch={len(chosen)}), or "
            "a batch of that size."
        )
    return chosen


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


def described(settings: latency.Latency, device: torch.device) -> Mapping[str, Any]:
    """Where it is measured, as plain values; what device a function uses is not known."""
    found = {"batch": settings.batch, "runtime": name_of(settings)}
    if isinstance(settings.runtime, str):
        found |= {"device": str(device), "threads": torch.get_num_threads()}
    return found


def _in_onnxruntime(model: nn.Module, example: statistics.Batch) -> latency.Work:
    from mipp.export.onnx_file import onnx_work  # noqa: PLC0415 - only this runtime needs it

    elsewhere = {tensor.device.type for tensor in example.tensors()} - {"cpu"}
    if elsewhere:
        raise InputError(
            "Latency(runtime='onnxruntime') runs models on the CPU, and this one is on "
            f"{', '.join(elsewhere)}. Move it with model.cpu(), or give a function for runtime=."
        )
    return onnx_work(model, example)
