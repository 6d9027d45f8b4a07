"""Feature selection by transfer entropy: on arrays, for a model's input, for scikit-learn."""

from mipp.features.criterion import select_features, terc
from mipp.features.elimination import FeatureSelection
from mipp.features.selector import FeatureSelector

__all__ = ["FeatureSelection", "FeatureSelector", "select_features", "terc"]
