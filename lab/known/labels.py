"""Distributions whose Y is a class: tables, parity, and normal classes."""

import numpy as np
from scipy import special

from lab.known.record import Known, Sample
from mipp.errors import InputError
from mipp.records import FloatArray


def table(joint: FloatArray, name: str = "table") -> Known:
    """Discrete X and Y of any joint distribution; X as indicators of its values, one unit.

    I = sum p(x, y) log(p(x, y) / p(x) p(y)), by enumeration.

    Parameters:
        joint: p(x, y), or counts, shape (values of X, values of Y).

    Raises:
        InputError: anything that is not a table of non-negative numbers with a positive sum.
    """
    if joint.ndim != 2 or not np.isfinite(joint).all() or (joint < 0).any() or joint.sum() <= 0:
        raise InputError(
            f"joint has shape {joint.shape}; expected a table (values of X, values of Y) of "
            "non-negative numbers that are not all zero."
        )
    p = joint / joint.sum()
    mi = special.rel_entr(p, np.outer(p.sum(1), p.sum(0))).sum()

    def draw(n: int, rng: np.random.Generator) -> Sample:
        cell = rng.choice(p.size, size=n, p=p.ravel())
        x, y = np.unravel_index(cell, p.shape)
        return np.eye(len(p))[x], y.astype(np.int64)

    return Known(name, max(0.0, float(mi)), "enumeration", draw, (0,) * len(p))


def parity(bits: int = 2, flip: float | int = 0) -> Known:
    """Fair bits and their parity (XOR for two), the label flipped with probability ``flip``.

    A synergistic set: any ``bits - 1`` of them tell nothing. I = log 2 - H(flip). Closed form.

    Raises:
        InputError: fewer than one bit, or a ``flip`` that is not between 0 and 1/2.
    """
    if bits < 1 or not 0 <= flip <= 0.5:
        raise InputError(
            f"parity(bits={bits}, flip={flip}); expected one bit or more, and flip from 0 to 0.5."
        )

    def draw(n: int, rng: np.random.Generator) -> Sample:
        x = rng.integers(0, 2, size=(n, bits))
        flipped = rng.uniform(size=n) < flip
        return x.astype(np.float64), (x.sum(1) + flipped) % 2

    units = tuple(range(bits))
    mi = float(np.log(2) - special.entr([flip, 1 - flip]).sum())
    enough = (frozenset(units),) if flip < 0.5 else (frozenset[int](),)
    name = f"parity of {bits} bits, flipped {flip:g}"
    return Known(name, mi, "closed form", draw, units, enough)


def two_classes(distance: float | int, dim: int = 1) -> Known:
    """A fair label, and X normal of unit covariance around one of two points ``distance`` apart.

    The points differ alike in every coordinate. With z the coordinate along their difference,
    I = log 2 - E[log(1 + exp(-distance z))], z ~ N(distance / 2, 1). Quadrature.

    Raises:
        InputError: when ``distance`` is negative.
    """
    if not distance >= 0:
        raise InputError(f"distance={distance}; expected 0 or more standard deviations.")
    z = np.linspace(-12, 12, 4001)
    weight = np.exp(-(z**2) / 2)
    lost = np.logaddexp(0, -distance * (z + distance / 2))
    mi = float(np.log(2) - (weight * lost).sum() / weight.sum())

    def draw(n: int, rng: np.random.Generator) -> Sample:
        y = rng.integers(0, 2, size=n)
        shift = (y - 0.5) * distance / np.sqrt(dim)
        return rng.standard_normal((n, dim)) + shift[:, None], y

    units = tuple(range(dim))
    enough = (frozenset(units),) if distance > 0 else (frozenset[int](),)
    name = f"two classes {distance:g} apart, {dim} dimensions"
    return Known(name, max(0.0, mi), "quadrature", draw, units, enough)
