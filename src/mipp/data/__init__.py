"""Image data sets in memory, without pickle: ``mipp.data.load("digits", "train")``."""

from mipp.data.batches import Batches, calibration
from mipp.data.catalog import load, names
from mipp.data.dataset import Dataset

__all__ = ["Batches", "Dataset", "calibration", "load", "names"]
