"""Single layers in ONNX Runtime, to time them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mipp.export.onnx_file import OnnxSession, needed
from mipp.latency import LayerRun, Work

_TRANSPOSED = {torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}
_OPSET, _IR = 18, 10
"""Versions that onnxruntime reads since 1.18."""


def onnx_layer(layer: LayerRun) -> Work:
    """The layer as an ONNX network of its own, and a function that runs it on its input.

    Args:
        layer: On the CPU, in a number type that numpy has.

    Raises:
        InputError: If the extra ``onnx`` is not installed.
        FileError: If onnxruntime cannot run it.
    """
    onnx = needed("onnx")
    make, arrays = onnx.helper, onnx.numpy_helper
    stored = {"w": layer.weight} | ({} if layer.bias is None else {"b": layer.bias})
    if layer.function is torch.nn.functional.linear:
        stored["w"] = layer.weight.t()
        nodes = [make.make_node("MatMul", ["x", "w"], ["y"])]
        if layer.bias is not None:
            nodes = [
                make.make_node("MatMul", ["x", "w"], ["product"]),
                make.make_node("Add", ["product", "b"], ["y"]),
            ]
    else:
        kind = "ConvTranspose" if layer.function in _TRANSPOSED else "Conv"
        nodes = [make.make_node(kind, ["x", *stored], ["y"], **_attributes(layer))]
    weights = [arrays.from_array(value.numpy(force=True), name) for name, value in stored.items()]
    number = weights[0].data_type
    graph = make.make_graph(
        nodes,
        "layer",
        [make.make_tensor_value_info("x", number, list(_batched(layer).shape))],
        [make.make_tensor_value_info("y", number, None)],
        weights,
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", _OPSET)], ir_version=_IR)
    # from a file: of bytes the session would keep a second copy
    with tempfile.TemporaryDirectory(prefix="mipp-latency-") as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save(model, path)
        return OnnxSession(path).work(_batched(layer))


def _batched(layer: LayerRun) -> Tensor:
    """The input, with a first dimension where a convolution was called without one."""
    x = layer.input
    linear = layer.function is torch.nn.functional.linear
    return x if linear or x.dim() == layer.weight.dim() else x[None]


def _attributes(layer: LayerRun) -> dict[str, Any]:
    """Of a convolution's node."""
    given = layer.settings
    kernel = list(layer.weight.shape[2:])
    dilation = _each(given.get("dilation", 1), len(kernel))
    padding = given.get("padding", 0)
    if padding == "same":
        both = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before, after = [n // 2 for n in both], [n - n // 2 for n in both]
    else:
        before = after = _each(0 if padding == "valid" else padding, len(kernel))
    found = {
        "strides": _each(given.get("stride", 1), len(kernel)),
        "pads": [*before, *after],
        "dilations": dilation,
        "group": layer.groups,
    }
    if layer.function in _TRANSPOSED:
        found["output_padding"] = _each(given.get("output_padding", 0), len(kernel))
    return found


def _each(value: int | Sequence[int], n: int) -> list[int]:
    if isinstance(value, int):
        return [value] * n
    return list(value) * (n // len(value))
