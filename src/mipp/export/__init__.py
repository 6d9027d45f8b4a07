"""Models in the formats for deployment: ONNX files, and 2:4 semi-structured sparse tensors."""

from mipp.export.onnx_file import OnnxFile, OnnxSession, export_onnx
from mipp.export.semi_structured import semi_structured_layers, to_semi_structured

__all__ = [
    "OnnxFile",
    "OnnxSession",
    "export_onnx",
    "semi_structured_layers",
    "to_semi_structured",
]
