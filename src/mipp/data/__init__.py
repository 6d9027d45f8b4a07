"""Image data sets in memory, without pickle: ``mipp.data.load("digits", "train")``."""

from mipp.data.catalog import load, names
from mipp.data.dataset import Dataset
from mipp.data.image_batches import Batches, calibration

__all__ = ["Batches", "Dataset", "calibration", "load", "names"]
