"""Image data sets in memory, read without pickle.

Examples:
    >>> import mipp
    >>> train = mipp.data.load("digits", "train")
    >>> batches = mipp.data.Batches(train, batch_size=64, shuffle=True)
"""

from mipp.data.catalog import load, names
from mipp.data.dataset import Dataset
from mipp.data.image_batches import Batches, calibration

__all__ = ["Batches", "Dataset", "calibration", "load", "names"]
