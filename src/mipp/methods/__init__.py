"""Competing methods: each ranks the units of a model; graph, costs and surgery are shared."""

from mipp.errors import InputError
from mipp.methods.magnitude import L2, RANDOM
from mipp.methods.method import Method, Question, Scores, curves
from mipp.methods.taylor import TAYLOR

_ALL = {method.name: method for method in (L2, RANDOM, TAYLOR)}


def names() -> list[str]:
    """Names that ``mipp.plan(method=...)`` takes, ``"mipp"`` first."""
    return ["mipp", *sorted(_ALL)]


def get(name: str) -> Method:
    """The method of that name.

    Raises:
        InputError: with the known names.
    """
    if name not in _ALL:
        raise InputError(f"method={name!r} is not known; expected one of {', '.join(names())}.")
    return _ALL[name]


__all__ = ["Method", "Question", "Scores", "curves", "get", "names"]
