"""Mutual information of two arrays, by any estimator."""

from collections.abc import Sequence
from typing import Any

from mipp.checks import checked
from mipp.information.estimator import Estimator
from mipp.information.gaussian.observed import observations
from mipp.information.named_estimators import read


@checked
def mutual_information(
    X: Any,
    Y: Any,
    estimator: Estimator | str = "gaussian",
    units: Sequence[int] | None = None,
    seed: int = 0,
) -> float:
    """Estimated I(X; Y) in nats, from rows of arrays.

    What it estimates, and with what bias, depends on the estimator. ``"gaussian"``, the default,
    sees linear relations and no others. With many rows it is a lower bound where X or Y is jointly
    Gaussian, since I(X; Y) = h(X) - h(X | Y) and no error of a given covariance has more entropy
    than a Gaussian one; where neither is, it may lie on either side, and of a discrete Y that X
    tells well it exceeds the entropy. From ``n`` rows of jointly Gaussian variables it comes out
    too large by about dim_x * dim_y / (2 n) nats. Learned estimators predict Y from X and see other
    relations, too, as far as they learn them. What was measured of each: docs/information.md.

    Infinite information (Y follows from X exactly) comes out as a large finite number.

    Parameters:
        X: real numbers, shape (n_samples, dim_x) or (n_samples,); array or tensor.
        Y: real numbers, shape (n_samples, dim_y) or (n_samples,), or class indices of an integer or
            boolean type, shape (n_samples,).
        estimator: a name of `mipp.information.names`, or a record such as `mipp.Gaussian`.
        units: which unit each feature of X belongs to, by default one of its own. Estimators that
            are trained on masked inputs mask unit by unit; others take no notice.
        seed: of whatever the estimator draws. The same seed gives the same number.

    Raises:
        InputError: arrays that do not fit or are not finite, or an unknown estimator.
    """
    chosen = read(estimator)
    view = observations(X, Y, units)
    n_units = max(int(view.unit.max()) + 1, 1)
    return float(chosen.scorer([view], n_units, seed).total().sum())
