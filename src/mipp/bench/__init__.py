"""Benchmarks as suites: what is to be measured is a file, what was measured are records.

`load` reads a suite, `items` is what it measures, `run` does what is missing and `tables` shows
what is there. See docs/bench.md.
"""

from mipp.bench.estimate import Pace, in_words
from mipp.bench.kinds import Kind
from mipp.bench.reading import items, load, names
from mipp.bench.run import Choice, How, Outcome, run, todo, with_parents
from mipp.bench.show import Cell, Table, as_json, spelled, tables
from mipp.bench.store import Store
from mipp.bench.suite import Suite

__all__ = [
    "Cell",
    "Choice",
    "How",
    "Kind",
    "Outcome",
    "Pace",
    "Store",
    "Suite",
    "Table",
    "as_json",
    "in_words",
    "items",
    "load",
    "names",
    "run",
    "spelled",
    "tables",
    "todo",
    "with_parents",
]
