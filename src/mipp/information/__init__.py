"""How many nats a consumer would lose with each unit."""

from mipp.information.estimate import mutual_information
from mipp.information.estimator import (
    ConsumerView,
    Estimator,
    Observations,
    Reads,
    RowShape,
    View,
)
from mipp.information.gaussian.observed import observations
from mipp.information.gaussian.scorer import Gaussian, GaussianScorer
from mipp.information.gaussian.whitening import fisher_whitening, in_units_of_noise
from mipp.information.learned.masked import Masked
from mipp.information.learned.mlp import Mlp
from mipp.information.named_estimators import get, names, read
from mipp.information.view import consumer_view

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
    "fisher_whitening",
    "get",
    "in_units_of_noise",
    "mutual_information",
    "names",
    "observations",
    "read",
]
