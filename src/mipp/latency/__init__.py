"""Running times on this machine: whole models in turns, and layers at several widths."""

from mipp.latency.layer_times import LayerRun, never_falling, time_layers
from mipp.latency.timing import Latency, Runtime, Stopwatch, Work, scatter, take_turns

__all__ = [
    "Latency",
    "LayerRun",
    "Runtime",
    "Stopwatch",
    "Work",
    "never_falling",
    "scatter",
    "take_turns",
    "time_layers",
]
