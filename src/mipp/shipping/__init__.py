"""Models in the forms that they are shipped in."""

from mipp.shipping.onnx import OnnxFile, export_onnx
from mipp.shipping.semi_structured import semi_structured_layers, to_semi_structured
from mipp.shipping.session import OnnxSession

__all__ = [
    "OnnxFile",
    "OnnxSession",
    "export_onnx",
    "semi_structured_layers",
    "to_semi_structured",
]
