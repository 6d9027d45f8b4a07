"""Experiments that are code, one module each; each has an `lab.experiment.Experiment`."""

import importlib
from typing import Any

from lab.experiment import Experiment
from mipp.errors import InputError

NAMES = (
    "activations", "authors", "choices", "confidence", "depth", "discovery_cost", "few_examples",
    "frontier", "full_width", "hubs", "information", "kept_information", "language", "large",
    "latency", "methods", "nats", "packages", "pixels", "precision", "quality", "segmentation",
    "settle", "speed", "speed_counted", "synthetic", "transformer", "tuning", "unit_order",
    "unstructured", "weights", "weights_large",
)  # fmt: skip
"""Modules that are experiments; the others here are parts of one."""


def get(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        InputError: There is none.
    """
    if name not in NAMES:
        raise InputError(f"experiment {name!r} was given; expected one of {', '.join(NAMES)}.")
    found: Experiment = importlib.import_module(f"lab.experiments.{name}").EXPERIMENT
    return found


def measure(name: str, key: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in this process."""
    return get(name).measure(key, settings)
