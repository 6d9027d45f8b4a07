"""The contract of an estimator of information, the estimators by name, and their use on arrays.

The scorer that an estimator makes is a `mipp.records.Scorer`, all that `mipp.selection` sees of it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from mipp.checks import checked
from mipp.errors import InputError
from mipp.information.gaussian.scorer import Gaussian
from mipp.information.learned.masked import Masked
from mipp.information.learned.mlp import Mlp
from mipp.information.views import Reads, RowShape, View, observations
from mipp.records import Scorer


@runtime_checkable
class Estimator(Protocol):
    """Makes a scorer for a group from the views of its consumers, so that any elimination works."""

    @property
    def name(self) -> str:
        """As in ``mipp.plan(estimator=...)``."""
        ...

    @property
    def reads(self) -> Reads:
        """The least that it needs; every estimator takes `Observations`."""
        ...

    @property
    def row_shape(self) -> RowShape:
        """Which rows it needs of a convolution."""
        ...

    @property
    def noise(self) -> float | str:
        """What counts as noise in a consumer's output: ``"fisher"``, or a share of its variance."""
        ...

    def scorer(self, views: Sequence[View], n_units: int, seed: int = 0) -> Scorer:
        """A fresh elimination, with no unit removed yet.

        Args:
            views: The group's consumers.
            n_units: Number of units of the group.
            seed: Of all random draws of the estimator.
        """
        ...


_ALL: dict[str, Callable[[], Estimator]] = {"gaussian": Gaussian, "masked": Masked, "mlp": Mlp}


def names() -> list[str]:
    """Names that ``mipp.plan(estimator=...)`` takes, the default first."""
    return list(_ALL)


def get(name: str) -> Estimator:
    """The estimator of that name, with its defaults.

    Raises:
        InputError: The name is not known; the text lists the known names.
    """
    if name not in _ALL:
        raise InputError(f"estimator={name!r} is not known; expected one of {', '.join(_ALL)}.")
    return _ALL[name]()


def read(estimator: Estimator | str) -> Estimator:
    """An estimator from its name or record.

    Raises:
        InputError: It is neither.
    """
    if isinstance(estimator, str):
        return get(estimator)
    # a class has the attributes of its records, too
    if isinstance(estimator, type) or not isinstance(estimator, Estimator):
        raise InputError(
            f"estimator={estimator!r}; expected one of {', '.join(names())}, or a record such as "
            "mipp.Gaussian(...)."
        )
    return estimator


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
    predicts well it exceeds the entropy. From ``n`` rows of jointly Gaussian variables it comes out
    too large by about dim_x * dim_y / (2 n) nats. Learned estimators predict Y from X and see other
    relations, too, as far as they learn them. Measurements of each: docs/research/information.md.

    Infinite information (Y follows from X exactly) comes out as a large finite number.

    Args:
        X: Real numbers, shape ``(n_samples, dim_x)`` or ``(n_samples,)``; array or tensor.
        Y: Real numbers, shape ``(n_samples, dim_y)`` or ``(n_samples,)``, or class indices of an
            integer or boolean type, shape ``(n_samples,)``.
        estimator: A name of `mipp.information.names`, or a record such as `mipp.Gaussian`.
        units: The unit that each feature of X belongs to, by default one of its own. Estimators
            that are trained on masked inputs mask unit by unit; others ignore it.
        seed: Of all random draws of the estimator. The same seed gives the same number.

    Raises:
        InputError: Arrays do not fit or are not finite, or the estimator is unknown.

    Examples:
        >>> import numpy as np
        >>> import mipp
        >>> x = np.random.default_rng(0).normal(size=(2000, 1))
        >>> noisy = x + np.random.default_rng(1).normal(size=(2000, 1))
        >>> round(mipp.mutual_information(x, noisy), 1)  # 0.5 log 2 = 0.35
        0.3
    """
    chosen = read(estimator)
    view = observations(X, Y, units)
    n_units = max(int(view.unit.max()) + 1, 1)
    return float(chosen.scorer([view], n_units, seed).total().sum())
