"""Nats that a consumer would lose with each unit."""

from mipp.information.estimators import Estimator, get, mutual_information, names, read
from mipp.information.gaussian.scorer import Gaussian, GaussianScorer
from mipp.information.gaussian.standardised import fisher_whitening, in_units_of_noise
from mipp.information.learned.masked import Masked
from mipp.information.learned.mlp import Mlp
from mipp.information.views import (
    ConsumerView,
    Observations,
    Reads,
    RowShape,
    View,
    consumer_view,
    features_seen,
    observations,
)

__all__ = [
    "ConsumerView",
    "Estimator",
    "Gaussian",
    "GaussianScorer",
    "Masked",
    "Mlp",
    "Observations",
    "Reads",
    "RowShape",
    "View",
    "consumer_view",
    "features_seen",
    "fisher_whitening",
    "get",
    "in_units_of_noise",
    "mutual_information",
    "names",
    "observations",
    "read",
]
