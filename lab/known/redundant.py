"""Units that carry the same: what a selection has to tell apart."""

import itertools

import numpy as np

from lab.known.record import Known, Sample
from mipp.errors import InputError


def duplicated(sources: int = 3, copies: int = 2, noise: float | int = 0.5) -> Known:
    """Every unit has ``copies - 1`` exact copies; any one of each is enough.

    Y is the standard normal sources, each with normal noise of that standard deviation, so that
    I = (sources / 2) log(1 + 1 / noise^2). Closed form. Unit u is source ``u % sources``. With one
    source and four copies: four redundant variables.

    Raises:
        InputError: counts below one, or noise that is not positive.
    """
    _check(noise)
    if sources < 1 or copies < 1:
        raise InputError(
            f"duplicated(sources={sources}, copies={copies}); expected one or more of each."
        )

    def draw(n: int, rng: np.random.Generator) -> Sample:
        z = rng.standard_normal((n, sources))
        return np.tile(z, (1, copies)), z + noise * rng.standard_normal(z.shape)

    choices = [range(source, sources * copies, sources) for source in range(sources)]
    return Known(
        name=f"{sources} sources, {copies} copies",
        mi=float(0.5 * sources * np.log1p(1 / noise**2)),
        how="closed form",
        draw=draw,
        unit=tuple(range(sources * copies)),
        enough=tuple(frozenset(one) for one in itertools.product(*choices)),
    )


def strong_and_weak(noise: float | int = 0.5) -> Known:
    """Two strong units carry what four weaker ones carry together.

    Units 2 to 5 are independent standard normal; unit 0 is (unit 2 + unit 3) / sqrt 2 and unit 1
    (unit 4 + unit 5) / sqrt 2. Y is units 0 and 1 with normal noise of that standard deviation, so
    that I = log(1 + 1 / noise^2) from either set. Closed form. Of two redundant sets MI ordering
    keeps the smaller, {0, 1}.

    Raises:
        InputError: when ``noise`` is not positive.
    """
    _check(noise)

    def draw(n: int, rng: np.random.Generator) -> Sample:
        weak = rng.standard_normal((n, 4))
        strong = weak.reshape(n, 2, 2).sum(2) / np.sqrt(2)
        y = strong + noise * rng.standard_normal((n, 2))
        return np.hstack([strong, weak]), y

    halves = itertools.product(({0}, {2, 3}), ({1}, {4, 5}))
    return Known(
        name="two strong, four weak",
        mi=float(np.log1p(1 / noise**2)),
        how="closed form",
        draw=draw,
        unit=tuple(range(6)),
        enough=tuple(frozenset(one | other) for one, other in halves),
    )


def two_triples() -> Known:
    """Two triples of fair bits, each with the label as its parity, and otherwise independent.

    Each triple tells the label, I = log 2; any two bits of a triple tell nothing, and neither does
    a mixture of the triples. Closed form.
    """

    def draw(n: int, rng: np.random.Generator) -> Sample:
        y = rng.integers(0, 2, size=n)
        free = rng.integers(0, 2, size=(n, 2, 2))
        last = (free.sum(2) + y[:, None]) % 2
        bits = np.concatenate([free, last[:, :, None]], axis=2).reshape(n, 6)
        return bits.astype(np.float64), y

    return Known(
        name="two redundant triples",
        mi=float(np.log(2)),
        how="closed form",
        draw=draw,
        unit=tuple(range(6)),
        enough=(frozenset({0, 1, 2}), frozenset({3, 4, 5})),
    )


def _check(noise: float | int) -> None:
    if not noise > 0:
        raise InputError(f"noise={noise}; expected a standard deviation above 0.")
