"""Which features tell something: TERC on its own, for the input of a model, for scikit-learn."""

from mipp.features.criterion import select_features, terc
from mipp.features.elimination import FeatureSelection
from mipp.features.selector import FeatureSelector

__all__ = ["FeatureSelection", "FeatureSelector", "select_features", "terc"]
