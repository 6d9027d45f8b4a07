"""How long things take on this machine: whole models in turns, and layers at several widths."""

from mipp.timing.layers import never_falling, time_layers
from mipp.timing.settings import Latency
from mipp.timing.stopwatch import Stopwatch, Work, scatter, take_turns

__all__ = ["Latency", "Stopwatch", "Work", "never_falling", "scatter", "take_turns", "time_layers"]
