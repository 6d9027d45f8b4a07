"""The kinds of benchmarks, one module each; a suite names one of them as its ``kind``."""

from lab.kinds import (
    ablation,
    accuracy,
    collapse,
    cost,
    deformed,
    layers,
    parent,
    scarce,
    scratch,
)
from lab.kinds.kind import Kind
from mipp.errors import InputError

_ALL = {
    module.KIND.name: module.KIND
    for module in (accuracy, collapse, layers, deformed, ablation, scarce, scratch, cost)
}


def names() -> list[str]:
    """Names that a suite's ``kind`` can have."""
    return list(_ALL)


def get(name: str) -> Kind:
    """The kind of that name; ``"parent"`` is the runner's own.

    Raises:
        InputError: with the names that a suite can have.
    """
    if name == parent.KIND.name:
        return parent.KIND
    if name not in _ALL:
        raise InputError(f"kind = {name!r}; expected one of {', '.join(_ALL)}.")
    return _ALL[name]


__all__ = ["Kind", "get", "names"]
