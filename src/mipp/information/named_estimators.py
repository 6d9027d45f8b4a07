"""The estimators by name."""

from collections.abc import Callable

from mipp.errors import InputError
from mipp.information.estimator import Estimator
from mipp.information.gaussian.scorer import Gaussian
from mipp.information.learned.masked import Masked
from mipp.information.learned.mlp import Mlp

_ALL: dict[str, Callable[[], Estimator]] = {"gaussian": Gaussian, "masked": Masked, "mlp": Mlp}


def names() -> list[str]:
    """Names that ``mipp.plan(estimator=...)`` takes, the default first."""
    return list(_ALL)


def get(name: str) -> Estimator:
    """The estimator of that name, with its defaults.

    Raises:
        InputError: with the known names.
    """
    if name not in _ALL:
        raise InputError(f"estimator={name!r} is not known; expected one of {', '.join(_ALL)}.")
    return _ALL[name]()


def read(estimator: Estimator | str) -> Estimator:
    """A name or a record as an estimator.

    Raises:
        InputError: for anything else.
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
