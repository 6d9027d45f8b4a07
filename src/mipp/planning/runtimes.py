"""What is timed of a model: a pass in PyTorch, in ONNX Runtime, or where the caller runs it."""

import tempfile
from pathlib import Path

from torch import nn

from mipp import latency, statistics
from mipp.checks import shown
from mipp.errors import InputError
from mipp.tracing.guards import measuring


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
        work = runtime(model, *args, **kwargs)
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
    from mipp.export import onnx_layer  # noqa: PLC0415 - only this runtime needs it

    return onnx_layer(layer)


def name_of(settings: latency.Latency) -> str:
    """The runtime's name, of a function its own."""
    runtime = settings.runtime
    return runtime if isinstance(runtime, str) else getattr(runtime, "__name__", repr(runtime))


def _in_onnxruntime(model: nn.Module, example: statistics.Batch) -> latency.Work:
    from mipp.export import OnnxSession, export_onnx  # noqa: PLC0415 - only this runtime needs it

    elsewhere = {tensor.device.type for tensor in example.tensors()} - {"cpu"}
    if elsewhere:
        raise InputError(
            "Latency(runtime='onnxruntime') runs models on the CPU, and this one is on "
            f"{', '.join(elsewhere)}. Move it with model.cpu(), or give a function for runtime=."
        )
    with tempfile.TemporaryDirectory(prefix="mipp-latency-") as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model, example, path, dynamic_batch=False)
        return OnnxSession(path).work(*example.tensors())
