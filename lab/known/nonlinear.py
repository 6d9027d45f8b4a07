"""Real variables whose relation is not jointly Gaussian: additive noise, variances, sums mod 1."""

import numpy as np
from scipy import special

from lab.known.record import Known, Sample
from mipp.errors import InputError
from mipp.records import FloatArray


def additive_uniform(spread: float | int, dim: int = 1) -> Known:
    """X uniform on (0, 1), Y = X + uniform noise on (-spread, spread); ``dim`` independent copies.

    Y has a trapezoid density, so that for each copy I = spread - log(2 spread) up to spread 1/2
    and 1 / (4 spread) above. Closed form (Czyz et al., arXiv 2306.11078, table of tasks).

    Raises:
        InputError: when ``spread`` is not positive.
    """
    if not spread > 0:
        raise InputError(f"spread={spread}; expected half the noise's width, above 0.")
    each = spread - np.log(2 * spread) if spread <= 0.5 else 1 / (4 * spread)

    def draw(n: int, rng: np.random.Generator) -> Sample:
        x = rng.uniform(size=(n, dim))
        return x, x + rng.uniform(-spread, spread, size=(n, dim))

    units = tuple(range(dim))
    name = f"additive uniform noise {spread:g}, {dim}x{dim}"
    return Known(name, float(dim * each), "closed form", draw, units, (frozenset(units),))


def normal_of_variance(power: float | int = 1) -> Known:
    """X ~ N(0, Y^power) and Y ~ chi2(1): dependent, and without any linear relation.

    The sign of X tells nothing, and log|X| = log|Z| + (power / 2) log Y with Z standard normal is a
    sum of two independent terms. Hence I = h(log|Z| + (power / 2) log Y) - h(log|Z|), where the
    density of the sum is a convolution. Quadrature: the trapezoid rule, whose error on smooth
    densities that decay on both sides falls faster than any power of the step.

    Raises:
        InputError: when ``power`` is not between 0.1 and 4, where the grid is fine enough.
    """
    if not 0.1 <= power <= 4:
        raise InputError(f"power={power}; expected between 0.1 and 4.")

    def draw(n: int, rng: np.random.Generator) -> Sample:
        y = rng.standard_normal((n, 1)) ** 2
        return rng.standard_normal((n, 1)) * y ** (power / 2), y

    mi = _sum_of_log_normals(float(power))
    return Known(f"X ~ N(0, Y^{power:g})", mi, "quadrature", draw, (0,), (frozenset({0}),))


def _sum_of_log_normals(a: float) -> float:
    """I(X; Y) of `normal_of_variance`, by one convolution on a grid."""

    def density(u: FloatArray) -> FloatArray:
        # of log|Z|, Z standard normal; log Y / 2 has the same
        return np.sqrt(2 / np.pi) * np.exp(u - np.exp(np.minimum(2 * u, 80)) / 2)

    # the left tail falls as exp(u), and as exp(u / a) once scaled
    far = 40 * max(1.0, a)
    step = 0.02 * min(1.0, a)
    half = int(far / step)
    u = np.linspace(-half * step, half * step, 2 * half + 1)
    noise, signal = density(u), density(u / a) / a
    size = 2 * len(u) - 1
    spectrum = np.fft.rfft(noise, size) * np.fft.rfft(signal, size)
    both = np.maximum(np.fft.irfft(spectrum, size) * step, 0)
    entropy = float(special.entr(both).sum() * step)
    return entropy - float(special.entr(noise).sum() * step)


def modular_sum(spread: float | int) -> Known:
    """Y = X_1 + X_2 + noise modulo 1, X uniform on the unit square: a synergistic pair.

    The noise is uniform on (-spread, spread). Each of the two alone is independent of Y; together
    they tell I = -log(2 spread). Closed form.

    Raises:
        InputError: when ``spread`` is not between 0 (excluded) and 1/2.
    """
    if not 0 < spread <= 0.5:
        raise InputError(f"spread={spread}; expected above 0, and at most 0.5.")

    def draw(n: int, rng: np.random.Generator) -> Sample:
        x = rng.uniform(size=(n, 2))
        noise = rng.uniform(-spread, spread, size=n)
        return x, ((x.sum(1) + noise) % 1.0)[:, None]

    mi = float(-np.log(2 * spread))
    enough = (frozenset({0, 1}),) if spread < 0.5 else (frozenset[int](),)
    return Known(f"sum modulo 1, noise {spread:g}", mi, "closed form", draw, (0, 1), enough)
