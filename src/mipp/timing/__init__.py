"""How long things take on this machine: whole models in turns, and layers at several widths."""

from mipp.timing.stopwatch import Stopwatch, Work, scatter, take_turns

__all__ = ["Stopwatch", "Work", "scatter", "take_turns"]
