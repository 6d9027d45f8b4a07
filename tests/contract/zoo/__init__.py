"""Small architectures of every kind, which the contract tests prune: see `entry.Entry`."""

from . import attention, convolutional, generative, light, recurrent, various
from .entry import ZOO, Entry

__all__ = ["ZOO", "Entry", "attention", "convolutional", "generative", "light", "recurrent",
           "various"]  # fmt: skip
