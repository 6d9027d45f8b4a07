"""Running an ONNX file with onnxruntime, in the clothes of a module."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from mipp.errors import FileError, InputError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def needed(name: str) -> Any:
    """A package of the extra ``onnx``; raises `InputError` where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a build for another system fails with whatever it likes
        raise InputError(
            f"ONNX files need the package {name}, which cannot be imported: "
            f"{type(error).__name__}: {error}. Install the extra: pip install 'torch-mipp[onnx]'."
        ) from error


class OnnxSession(nn.Module):
    """The network in an ONNX file, on the CPU, with as many threads as torch has.

    Called with tensors in the order of the file's inputs, gives a tuple of tensors.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        runtime = needed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise FileError(
                f"onnxruntime cannot read {path}: {type(error).__name__}: {error}. Export the "
                "model again, or with another version of onnxruntime."
            ) from error
        self._names = [item.name for item in self._session.get_inputs()]

    def forward(self, *tensors: Shaped[Tensor, "..."]) -> tuple[Tensor, ...]:
        """The outputs, in the order of the file."""
        found = self._session.run(None, self._fed(tensors))
        return tuple(torch.from_numpy(value) for value in found)

    def work(self, *tensors: Shaped[Tensor, "..."]) -> Callable[[], object]:
        """One run on these inputs and nothing else, to be timed."""
        fed = self._fed(tensors)
        return lambda: self._session.run(None, fed)

    def _fed(self, tensors: tuple[Tensor, ...]) -> dict[str, Any]:
        if len(tensors) != len(self._names):
            raise InputError(
                f"the ONNX file takes {len(self._names)} inputs ({', '.join(self._names)}), and "
                f"{len(tensors)} were given. An input that the model does not use is not in the "
                "file; leave it out."
            )
        arrays = [tensor.detach().cpu().numpy() for tensor in tensors]
        return dict(zip(self._names, arrays, strict=True))
