"""Models in the forms that they are shipped in."""

from mipp.shipping.onnx import OnnxFile, export_onnx
from mipp.shipping.session import OnnxSession

__all__ = ["OnnxFile", "OnnxSession", "export_onnx"]
