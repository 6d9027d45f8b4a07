"""Sizes and numbers that depend on the values of tensors, such as how many entries are not zero."""

import torch
from torch.fx import Node


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

    Their products tell which dimensions are made of which, as those of real sizes do. Raises
    `DependsOnValues` where there are too many.
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
