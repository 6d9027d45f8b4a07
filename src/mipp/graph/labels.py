"""Labels: which unit every index along every dimension of a tensor belongs to.

A label is an *atom*, a positive integer that stands for one index of one dimension of one
parameter or buffer. Rules say which atoms are the same unit (`Ties.tie`) and which can never be
removed (`Ties.fix`); nothing is solved before `Ties.classes`, which finds connected components.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.fx import Node

from mipp.records import IntArray

FIXED = 0
"""The atom of what is never removed."""


class DependsOnValues(Exception):  # noqa: N818  # caught where rules are called
    """A rule needs a number that is known only when the model runs."""


class _Unknown(int):
    """An integer of its own class, so that a -1 in the code is not taken for it."""


UNKNOWN = _Unknown(-1)
"""Stands for a size or a number that depends on values."""

_PRIMES = (1048583, 1048589, 1048601, 1048609, 1048613, 1048627)


def known(number: int) -> int:
    """The same number; `DependsOnValues` where it is `UNKNOWN`."""
    if number is UNKNOWN:
        raise DependsOnValues
    return int(number)


def stand_ins(*nodes: Node) -> list[tuple[int, ...]]:
    """The shapes of tensors, with a large prime for each size that depends on values.

    Their products tell which dimensions are made of which, as those of real sizes do.

    Raises:
        DependsOnValues: There are too many.
    """
    primes: dict[object, int] = {}

    def stand_in(size: int | torch.SymInt) -> int:
        if not isinstance(size, torch.SymInt):
            return int(size)
        formula = size.node.expr
        for symbol in sorted(formula.free_symbols, key=str):
            if symbol not in primes and len(primes) == len(_PRIMES):
                raise DependsOnValues
            primes.setdefault(symbol, _PRIMES[len(primes) % len(_PRIMES)])
        return int(formula.subs(primes))

    return [tuple(map(stand_in, node.meta["val"].shape)) for node in nodes]


@dataclass(frozen=True)
class Source:
    """The parameter or buffer that a value is a view of.

    Attributes:
        dims: For each dimension of the value the dimension of the tensor that it is, or None where
            it is none (inserted, or several made one).
        part: Whether it is only a part of the tensor.
    """

    tensor: str
    dims: tuple[int | None, ...]
    is_parameter: bool
    part: bool = False


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of one tensor in the graph.

    Attributes:
        labels: For each dimension atoms of shape ``(size,)``, or None where no index can be
            removed. Removing a unit removes, along each dimension by itself, the indices labelled
            with it.
        batched: Whether the number of examples is part of the shape.
    """

    shape: tuple[int, ...]
    labels: tuple[IntArray | None, ...]
    batched: bool = False
    source: Source | None = None


@dataclass(frozen=True, eq=False)
class Classes:
    """The solution: units as sets of atoms.

    ``class_of`` and ``unit_of`` have shape ``(n_atoms,)``: the class of every atom, and the same
    with -1 for what is never removed. ``reason_of`` maps the class of what is never removed to the
    reason that was given first, ``merged_by`` a class to the first reason for which different
    indices of one tensor became one unit.
    """

    class_of: IntArray
    unit_of: IntArray
    reason_of: dict[int, str]
    merged_by: dict[int, str]


@dataclass(frozen=True, eq=False)
class Solution:
    """Classes numbered as units of groups.

    ``group_of`` and ``unit_of`` have shape ``(n_atoms,)``, ``KEPT`` where nothing is removed.
    """

    classes: Classes
    group_of: IntArray
    unit_of: IntArray


class Ties:
    """Collects which atoms are one unit and which are fixed, in order of execution."""

    def __init__(self) -> None:
        self._n_atoms = 1
        self._left: list[IntArray] = []
        self._right: list[IntArray] = []
        self._fixed: list[tuple[IntArray, str]] = []
        self._merged: list[tuple[IntArray, str]] = []

    def fresh(self, size: int) -> IntArray:
        """New atoms, shape ``(size,)``."""
        start = self._n_atoms
        self._n_atoms += size
        return np.arange(start, start + size, dtype=np.int64)

    def fix(self, atoms: IntArray | None, reason: str) -> None:
        """Marks atoms as never to be removed; None and ``FIXED`` are marked already."""
        if atoms is not None:
            atoms = atoms[atoms != FIXED]
            if atoms.size:
                self._fixed.append((np.unique(atoms), reason))

    def tie(self, left: IntArray | None, right: IntArray | None, reason: str) -> None:
        """Index by index, ``left`` and ``right`` are the same unit; shapes are equal.

        Where one side can never be removed the other is fixed, for ``reason``.
        """
        if left is None or right is None:
            self.fix(right if left is None else left, reason)
            return
        left, right = np.broadcast_arrays(left, right)
        both = (left != FIXED) & (right != FIXED)
        self._left.append(left[both])
        self._right.append(right[both])
        self.fix(left[right == FIXED], reason)
        self.fix(right[left == FIXED], reason)

    def merge(self, rows: IntArray, reason: str) -> IntArray:
        """Makes each row of ``rows``, shape ``(n_units, size)``, one unit; first atom of each row.

        A row of which a part is fixed is fixed as a whole.
        """
        if rows.shape[1] > 1:
            self.tie(rows[:, :1], rows[:, 1:], reason)
            self._merged.append((np.unique(rows[rows != FIXED]), reason))
        return np.where((rows == FIXED).any(axis=1), FIXED, rows[:, 0])

    def classes(self) -> Classes:
        """Connected components of all ties, with the reasons."""
        from scipy.sparse import coo_array  # noqa: PLC0415 - only tracing needs SciPy
        from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

        left = np.concatenate([np.zeros(0, np.int64), *self._left])
        right = np.concatenate([np.zeros(0, np.int64), *self._right])
        links = coo_array(
            (np.ones(len(left), dtype=np.int8), (left, right)), shape=(self._n_atoms,) * 2
        )
        class_of = connected_components(links, directed=False)[1].astype(np.int64)
        reason_of = {int(class_of[FIXED]): "it is part of the model's inputs"}
        _first_reasons(self._fixed, class_of, reason_of)
        removable = np.ones(class_of.max() + 1, dtype=bool)
        removable[list(reason_of)] = False
        unit_of = np.where(removable[class_of], class_of, -1)
        merged_by: dict[int, str] = {}
        _first_reasons(self._merged, class_of, merged_by)
        return Classes(class_of, unit_of, reason_of, merged_by)


def _first_reasons(
    given: Sequence[tuple[IntArray, str]], class_of: IntArray, reasons: dict[int, str]
) -> None:
    for atoms, reason in given:
        for unit in np.unique(class_of[atoms]):
            reasons.setdefault(int(unit), reason)
