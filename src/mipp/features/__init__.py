"""Feature selection by transfer entropy: on arrays, for a model's input, for scikit-learn."""

from typing import TYPE_CHECKING, Any

from mipp.features.criterion import select_features, terc
from mipp.features.elimination import FeatureSelection

if TYPE_CHECKING:
    from mipp.features.selector import FeatureSelector

__all__ = ["FeatureSelection", "FeatureSelector", "select_features", "terc"]


def __getattr__(name: str) -> Any:
    if name == "FeatureSelector":
        from mipp.features.selector import FeatureSelector  # noqa: PLC0415 - needs scikit-learn

        return FeatureSelector
    raise AttributeError(f"module 'mipp.features' has no attribute {name!r}")
