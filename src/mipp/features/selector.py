"""TERC as a feature selector for scikit-learn."""

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
"""Two rows for each of five folds."""


class FeatureSelector(SelectorMixin, BaseEstimator):
    """Keeps the features that transfer entropy to the target (`mipp.terc`), for scikit-learn.

    A feature is removed if nothing about the target is lost with it, given the remaining features.
    Of two features with the same information one is kept. A feature that is informative only
    together with another is kept if the estimator can detect that (``"gaussian"`` cannot). At least
    one feature is kept.

    Args:
        estimator: how information is measured: a name of `mipp.information.names`, or a record such
            as ``mipp.Gaussian()``.
        n_features_to_select: number of features to keep, or a share of them. None leaves that to
            ``confidence``.
        confidence: keep a feature only if it transfers entropy with this confidence, 0.5 to below
            1. With ``n_features_to_select`` and ``order="ordered"``, features that fail this test
            (at 0.95) are removed first.
        order: ``"ordered"`` tests each feature once, least informative on its own first.
            ``"greedy"`` removes the feature with the least loss, again and again.
        discrete_target: whether the target is a class. ``"auto"``: if it is not floating point.
        random_state: of the folds, and of estimators that learn. 0 gives the same result every
            time.

    Attributes:
        selection_ (mipp.FeatureSelection): order of removal, nats lost, and features kept.
        support_ (ndarray): mask of the features that are kept, shape ``(n_features_in_,)``.
        n_features_in_ (int): number of features seen by `fit`.
        feature_names_in_ (ndarray): their names, where all names in X are strings.

    Examples:
        >>> X = np.random.default_rng(0).standard_normal((500, 3))
        >>> FeatureSelector().fit(X, X[:, 0] - X[:, 2]).get_support().tolist()
        [True, False, True]

    References:
        Westphal, Hailes and Musolesi, "Information-Theoretic State Variable Selection for
        Reinforcement Learning", arXiv 2401.11512.
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
        """Choose the features.

        Args:
            X: real numbers, shape (n_samples, n_features).
            y: classes of any type, shape (n_samples,), or real numbers, shape (n_samples,) or
                (n_samples, n_outputs).

        Returns:
            The selector itself.
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
    """Columns of mean 0 and variance 1, so that none loses digits in single precision."""
    spread = X.std(0)
    return (X - X.mean(0)) / np.where(spread > 0, spread, 1)
