"""Running times on this machine: whole models in turns, and layers at several widths."""

from mipp.latency.layer_times import never_falling, time_layers
from mipp.latency.timing import Latency, Stopwatch, Work, scatter, take_turns

__all__ = ["Latency", "Stopwatch", "Work", "never_falling", "scatter", "take_turns", "time_layers"]
