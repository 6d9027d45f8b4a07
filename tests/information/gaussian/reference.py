"""The Gaussian information, slow and readable: the oracle for tests of the fast estimator."""

from collections.abc import Iterable, Sequence

import numpy as np

from mipp.records import FloatArray


def gaussian_information(
    covariance: FloatArray, weight: FloatArray, noise: FloatArray, kept: Sequence[int]
) -> float:
    """I(X_S; Y) = 1/2 logdet Cov(Y) - 1/2 logdet Cov(Y | X_S) in nats, with ``Y = W X + N``.

    Args:
        covariance: Of ``X ~ N(0, covariance)``, shape ``(d, d)``.
        weight: ``W``, shape ``(m, d)``.
        noise: Covariance of ``N ~ N(0, noise)``, shape ``(m, m)``.
        kept: The features ``S``.
    """
    s = list(kept)
    full = weight @ covariance @ weight.T + noise
    if not s:
        return 0.0
    across = weight @ covariance[:, s]
    left = full - across @ np.linalg.solve(covariance[np.ix_(s, s)], across.T)
    return 0.5 * float(np.linalg.slogdet(full)[1] - np.linalg.slogdet(left)[1])


def eliminate(
    covariance: FloatArray, weight: FloatArray, noise: FloatArray, units: Sequence[Iterable[int]]
) -> list[tuple[int, float]]:
    """Greedy backward elimination from scratch: ``(unit, nats lost in total so far)`` in order.

    ``units[u]`` are the features of unit ``u``. Every candidate set is evaluated anew.
    """
    features = [list(unit) for unit in units]
    grouped = {feature for unit in features for feature in unit}
    context = [f for f in range(len(covariance)) if f not in grouped]
    left = list(range(len(features)))

    def information(keep: Iterable[int]) -> float:
        kept = context + [f for u in keep for f in features[u]]
        return gaussian_information(covariance, weight, noise, kept)

    full = information(left)
    removed: list[tuple[int, float]] = []
    while left:
        kept_after = [information(u for u in left if u != gone) for gone in left]
        best = int(np.argmax(kept_after))
        removed.append((left.pop(best), full - kept_after[best]))
    return removed
