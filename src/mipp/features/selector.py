"""TERC as a feature selector of scikit-learn."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from mipp.checks import shown
from mipp.errors import InputError
from mipp.features.criterion import terc
from mipp.features.elimination import read_keep
from mipp.records import BoolArray

_MIN_SAMPLES = 10
"""As few rows as five folds can do with, two each."""


class FeatureSelector(SelectorMixin, BaseEstimator):
    """Keeps the features that transfer entropy to the target (`mipp.terc`), as scikit-learn has it.

    A feature goes when nothing about the target is lost with it, given the features that are left:
    of two that tell the same one stays, and one that tells something only together with another
    stays where the estimator can see that (``"gaussian"`` cannot). At least one feature is kept.

    Parameters
    ----------
    estimator : str or record, default="gaussian"
        How information is measured: a name of `mipp.information.names`, or a record such as
        ``mipp.Gaussian()``.
    n_features_to_select : int or float, default=None
        How many features stay, or which share of them. None leaves that to ``confidence``.
    confidence : float, default=0.95
        A feature stays only if we are more sure than this that it transfers entropy, 0.5 to below
        1. With ``n_features_to_select`` and ``order="ordered"``, what fails this test goes first
        (at 0.95).
    order : {"ordered", "greedy"}, default="ordered"
        ``"ordered"`` tests each feature once, least informative on its own first. ``"greedy"``
        removes the least missed one, over and over.
    discrete_target : bool or "auto", default="auto"
        Whether the target is a class. "auto": if it is of any type but floating point.
    random_state : int, RandomState instance or None, default=0
        Of the folds, and of estimators that learn. 0 gives the same result every time.

    Attributes
    ----------
    selection_ : mipp.FeatureSelection
        Order of removal, nats lost, and what stays.
    support_ : ndarray of shape (n_features_in_,)
        Mask of the features that stay.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where X has names that are all strings.

    References
    ----------
    Westphal, Hailes and Musolesi, "Information-Theoretic State Variable Selection for Reinforcement
    Learning", arXiv 2401.11512.
    """

    def __init__(
        self,
        estimator: Any = "gaussian",
        n_features_to_select: Any = None,
        confidence: Any = 0.95,
        order: Any = "ordered",
        discrete_target: Any = "auto",
        random_state: Any = 0,
    ) -> None:
        # any value must be accepted here, says scikit-learn; `fit` looks at them
        self.estimator = estimator
        self.n_features_to_select = n_features_to_select
        self.confidence = confidence
        self.order = order
        self.discrete_target = discrete_target
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "FeatureSelector":
        """Chooses the features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Real numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Classes of any type, shape (n_samples,), or real numbers.
        """
        X, y = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, ensure_min_samples=_MIN_SAMPLES
        )
        seed = self.random_state
        if not isinstance(seed, Integral):
            try:
                seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
            except ValueError as error:
                raise InputError(
                    f"random_state={shown(seed)}; expected None, a whole number such as 0, or a "
                    "numpy.random.RandomState."
                ) from error
        count = self.n_features_to_select
        if count is not None:
            count = read_keep(count, X.shape[1], "n_features_to_select")
        found = terc(
            _standardised(X),
            self._target(np.asarray(y)),
            estimator=self.estimator,
            order=self.order,
            confidence=self.confidence if count is None else None,
            keep=count,
            seed=int(seed),
        )
        kept = found.kept if len(found.kept) else found.order[-1:]
        self.selection_ = found
        self.support_ = found.mask_of(kept)
        return self

    def _target(self, y: NDArray[Any]) -> NDArray[Any]:
        """Real numbers, or class indices from 0."""
        if not isinstance(self.discrete_target, bool) and not (
            isinstance(self.discrete_target, str) and self.discrete_target == "auto"
        ):
            raise InputError(
                f"discrete_target={shown(self.discrete_target)}; expected 'auto', True or False."
            )
        classes = self.discrete_target
        if classes == "auto":
            classes = y.dtype.kind != "f"
        if classes:
            if y.ndim != 1:
                raise InputError(
                    f"y has shape {y.shape}; classes have shape (n_samples,). Give several "
                    "real-valued targets as floating point, or discrete_target=False."
                )
            return np.unique(y, return_inverse=True)[1]
        return y.astype(np.float64)

    def _get_support_mask(self) -> BoolArray:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


def _standardised(X: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns of mean 0 and variance 1, so that none loses its digits in single precision."""
    spread = X.std(0)
    return (X - X.mean(0)) / np.where(spread > 0, spread, 1)
