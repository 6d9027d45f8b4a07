"""Jointly Gaussian variables of any dimension, and what invertible functions make of them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lab.known.record import Known, Sample
from mipp.errors import InputError
from mipp.records import FloatArray


def normal(covariance: FloatArray, dim_x: int, name: str = "normal") -> Known:
    """Jointly Gaussian X and Y with zero means.

    I = 1/2 logdet Cov(X) + 1/2 logdet Cov(Y) - 1/2 logdet Cov(X, Y). Closed form.

    Parameters:
        covariance: of (X, Y) together, shape (dim_x + dim_y, dim_x + dim_y), positive definite.
        dim_x: how many of them are X.

    Raises:
        InputError: a matrix that is no covariance, or a ``dim_x`` that leaves X or Y empty.
    """
    size = len(covariance)
    if covariance.shape != (size, size) or not np.allclose(covariance, covariance.T):
        raise InputError(
            f"covariance has shape {covariance.shape}; expected a square symmetric matrix of X and "
            "Y together."
        )
    if not 0 < dim_x < size:
        raise InputError(f"dim_x={dim_x}; expected between 1 and {size - 1}, to leave some for Y.")
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        raise InputError(
            "covariance is not positive definite: X and Y would share infinite information or be "
            "no random variables. Add noise to its diagonal."
        ) from None

    def logdet(block: FloatArray) -> float:
        return float(np.linalg.slogdet(block)[1])

    parts = logdet(covariance[:dim_x, :dim_x]) + logdet(covariance[dim_x:, dim_x:])

    def draw(n: int, rng: np.random.Generator) -> Sample:
        both = rng.standard_normal((n, size)) @ root.T
        return both[:, :dim_x], both[:, dim_x:]

    mi = max(0.0, 0.5 * (parts - logdet(covariance)))
    return Known(name, mi, "closed form", draw, tuple(range(dim_x)))


def sparse_normal(dim: int, nats: float | int, pairs: int = 1) -> Known:
    """Gaussian X and Y of ``dim`` each, where only ``pairs`` pairs (X_i, Y_i) are correlated.

    Each pair has ``nats / pairs`` nats: correlation^2 = 1 - exp(-2 nats / pairs).

    Raises:
        InputError: negative ``nats``, or more pairs than dimensions.
    """
    _check(nats)
    if not 1 <= pairs <= dim:
        raise InputError(f"pairs={pairs}; expected between 1 and dim={dim}.")
    covariance = np.eye(2 * dim)
    index = np.arange(pairs)
    covariance[index, dim + index] = np.sqrt(-np.expm1(-2 * nats / pairs))
    covariance[dim + index, index] = covariance[index, dim + index]
    found = normal(covariance, dim, f"sparse normal {dim}x{dim}, {nats:g} nats")
    needed = frozenset(range(pairs)) if nats > 0 else frozenset[int]()
    return replace(found, enough=(needed,))


def dense_normal(dim: int, nats: float | int) -> Known:
    """Gaussian X and Y of ``dim`` each, where any two of all variables are correlated alike.

    All variables are one common cause plus independent noise. What X tells of the cause is its
    mean, so that I = -1/2 log(1 - corr(mean X, mean Y)^2), solved for the correlation r of single
    variables.

    Raises:
        InputError: negative ``nats``.
    """
    _check(nats)
    of_means = np.sqrt(-np.expm1(-2 * nats))
    r = of_means / (dim * (1 - of_means) + of_means)
    covariance = np.full((2 * dim, 2 * dim), r)
    np.fill_diagonal(covariance, 1.0)
    found = normal(covariance, dim, f"dense normal {dim}x{dim}, {nats:g} nats")
    needed = frozenset(range(dim)) if nats > 0 else frozenset[int]()
    return replace(found, enough=(needed,))


def transformed(known: Known, of_x: str = "cube", of_y: str = "identity") -> Known:
    """The same through a strictly rising function of every number: the information is unchanged.

    Functions are "identity", "cube" (x^3), "half_cube" (sign(x) |x|^(3/2)) and "asinh".

    Raises:
        InputError: an unknown function, or one for class indices.
    """
    for side, name in (("of_x", of_x), ("of_y", of_y)):
        if name not in _FUNCTIONS:
            raise InputError(f"{side}={name!r}; expected one of {', '.join(_FUNCTIONS)}.")

    if of_y != "identity" and known.sample(1)[1].dtype.kind != "f":
        raise InputError(f"of_y={of_y!r} was given for class indices; leave it 'identity'.")

    def draw(n: int, rng: np.random.Generator) -> Sample:
        x, y = known.draw(n, rng)
        changed = y if of_y == "identity" else _FUNCTIONS[of_y](y.astype(np.float64))
        return _FUNCTIONS[of_x](x), changed

    return replace(known, name=f"{known.name}, {of_x} of X, {of_y} of Y", draw=draw)


def _check(nats: float | int) -> None:
    if not 0 <= nats < np.inf:
        raise InputError(f"nats={nats}; expected a finite number, 0 or more.")


_FUNCTIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "identity": lambda x: x,
    "cube": lambda x: x**3,
    "half_cube": lambda x: np.sign(x) * np.abs(x) ** 1.5,
    "asinh": np.arcsinh,
}
