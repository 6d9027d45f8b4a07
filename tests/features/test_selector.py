"""The scikit-learn selector: scikit-learn's own checks, and what it selects."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from mipp.features import FeatureSelector


@parametrize_with_checks([FeatureSelector()])
def test_scikit_learn_finds_nothing_to_complain_about(estimator, check):
    check(estimator)
